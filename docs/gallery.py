"""The method gallery: every entry of `METHODS` on one photo. A new method appears by its entry."""

from __future__ import annotations

import contextlib
import pathlib

from PIL import Image

import jaxcam
from jaxcam.explanation.result import Explanation

PHOTO = pathlib.Path(jaxcam.__file__).parent / "data" / "bundled" / "golf_ball_and_parachute.jpg"
CLASSES = ["golf ball", "parachute"]
#: On the first, whose head is not linear, methods differ; the others are for methods that are not defined for it.
NETWORKS = ("vgg16_slim", "resnet50_slim")


def page(folder: pathlib.Path, *, pictures: bool) -> str:
    """The page in Markdown; its pictures are written to the folder.

    Args:
      folder: of the page.
      pictures: whether to make them: a minute on two cores.
    """
    lines = [
        "# Method gallery", "",
        "Every method on the bundled photo: on the left what speaks for *golf ball*, on the right for *parachute*. The",
        f"network is `{NETWORKS[0]}` where nothing else is said, at its default layer. One picture shows what a map",
        "looks like, not which method is better: for that, evaluate on a data set.", "",
    ]  # fmt: skip
    found = explained() if pictures else {}
    for name, method in jaxcam.METHODS.items():
        lines += [f"## {method.title}", ""]
        if name in found:
            explanation = found[name]
            target = folder / f"{name}.jpg"
            target.parent.mkdir(exist_ok=True)
            both(explanation, name).save(target, quality=90)
            lines += [f"![{method.title} for a golf ball and for a parachute]({target.name})", ""]
            if explanation.model != NETWORKS[0]:
                lines += [f"On `{explanation.model}`: it is not defined for the head of `{NETWORKS[0]}`.", ""]
        home = method.function
        public = f"jaxcam.{home.__name__}"
        link = f"{{py:obj}}`{public}`" if home.__name__ in jaxcam.__all__ else f"`{home.__module__}.{home.__name__}`"
        lines += [f"{link}, `--method {name}`. {method.paper}.", ""]
        lines += [f"- cost in head evaluations: {method.cost}"] * bool(method.cost)
        lines += [f"- what it promises: {method.promise}", f"- the map is made of {method.map_from}"]
        if method.options:
            given = (f"`{key}={option.default}`" for key, option in method.options.items())
            lines += ["- options: " + ", ".join(given)]
        lines += [""]
    return "\n".join(lines)


def explained() -> dict[str, Explanation]:
    """By method the explanation of the photo on the first of the networks that the method is defined for."""
    found: dict[str, Explanation] = {}
    for name in NETWORKS:
        network = jaxcam.load(name)
        for method in jaxcam.METHODS:
            if method not in found:
                with contextlib.suppress(jaxcam.JaxcamError):
                    [found[method]] = jaxcam.explain(network, PHOTO, methods=[method], targets=CLASSES)
    return found


def both(explanation: Explanation, method: str) -> Image.Image:
    """The overlays of both classes, side by side."""
    overlays = [jaxcam.overlay(explanation.image, explanation[method, target].heatmap) for target in CLASSES]
    overlays = [picture.resize((320, round(320 * picture.height / picture.width))) for picture in overlays]
    gap = 8
    joined = Image.new("RGB", (sum(p.width for p in overlays) + gap, overlays[0].height), "white")
    for i, picture in enumerate(overlays):
        joined.paste(picture, (i * (picture.width + gap), 0))
    return joined
