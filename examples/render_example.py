"""Renders the bundled example picture: a golf ball in the grass, and a parachute in the sky behind it.

Everything in the picture is computed here from a seed, so it is ours to give away and can be made again at any time:

    python examples/render_example.py --out jaxcam/data/bundled/golf_ball_and_parachute.jpg

Beside the picture goes a JSON file of the same name with the boxes of the two objects and the licence.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
from PIL import Image
from scene.backdrop import sky, trees
from scene.ball import golf_ball
from scene.grass import BALL_Z, View, ground, lawn
from scene.optics import blur, encode, fractal, over
from scene.parachute import parachute


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="the JPEG to write")
    add("--seed", type=int, default=7, help="grass, clouds, dimples and grain (default: %(default)s)")
    add("--width", type=int, default=448, help="pixels (default: %(default)s)")
    add("--height", type=int, default=448, help="pixels (default: %(default)s)")
    add("--horizon", type=float, default=0.66, help="as a share of the height (default: %(default)s)")
    add("--ball-size", type=float, default=0.56, help="diameter as a share of the width (default: %(default)s)")
    add("--ball-x", type=float, default=0.31, help="centre as a share of the width (default: %(default)s)")
    add("--ball-y", type=float, default=0.71, help="centre as a share of the height (default: %(default)s)")
    add("--dimples", type=int, default=300, help="on the whole ball (default: %(default)s)")
    add("--dimple-depth", type=float, default=0.50, help="slope at a dimple's rim (default: %(default)s)")
    add("--canopy-size", type=float, default=0.72, help="diameter as a share of the width (default: %(default)s)")
    add("--canopy-x", type=float, default=0.60, help="centre as a share of the width (default: %(default)s)")
    add("--canopy-y", type=float, default=0.25, help="the rim as a share of the height (default: %(default)s)")
    add("--canopy-pitch", type=float, default=16, help="seen from below by this many degrees (default: %(default)s)")
    add("--canopy-roll", type=float, default=-7, help="swing to the side in degrees (default: %(default)s)")
    add("--gores", type=int, default=20, help="panels of the canopy (default: %(default)s)")
    add("--lines", type=float, default=0.30, help="length of the lines in diameters (default: %(default)s)")
    add("--clouds", type=float, default=0.3, help="cloud cover, 0 to about 2 (default: %(default)s)")
    add("--blades", type=int, default=26000, help="of grass (default: %(default)s)")
    add("--grass-length", type=float, default=0.40, help="in radii of the ball (default: %(default)s)")
    add("--aperture", type=float, default=5.0, help="blur at infinity in pixels (default: %(default)s)")
    add("--grain", type=float, default=0.012, help="standard deviation of the film grain (default: %(default)s)")
    add("--supersample", type=int, default=3, help="pixels drawn to a pixel, per side (default: %(default)s)")
    add("--quality", type=int, default=90, help="of the JPEG (default: %(default)s)")
    return parser.parse_args(argv)


def develop(rng: np.random.Generator, picture: np.ndarray, grain: float) -> np.ndarray:
    """Linear light `(h, w, 3)` to uint8: bloom, vignette, a film curve's shoulder and grain."""
    h, w, _ = picture.shape
    picture = 0.94 * picture + 0.06 * blur(picture, 0.02 * w)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    picture = picture * (1 - 0.11 * (x**2 + y**2))[..., None]
    picture = np.where(picture > 0.6, 0.6 + 0.4 * np.tanh((picture - 0.6) / 0.4), picture)
    tone = encode(picture)
    tone = tone + 0.10 * (tone - 0.5) * (1 - np.abs(2 * tone - 1))
    noise = 0.8 * fractal(rng, h, w, 0.35)[..., None] + 0.35 * rng.standard_normal((h, w, 3))
    return np.clip(255 * (tone + grain * noise * (1.15 - tone)) + 0.5, 0, 255).astype(np.uint8)


def render(options: argparse.Namespace) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The picture `(h, w, 3)` uint8, and the boxes of its objects in pixels."""
    # One stream a part: a change to one of them leaves the others as they are.
    streams = dict(zip(("sky", "trees", "canopy", "ground", "ball", "grass", "film"), range(7), strict=True))
    rng = {part: np.random.default_rng((options.seed, i)) for part, i in streams.items()}
    width, height, scale = options.width, options.height, options.supersample
    radius, horizon = options.ball_size * width / 2, options.horizon * height
    center = (options.ball_x * width, options.ball_y * height)
    view = View(width, height, horizon, radius, (center[0], center[1] + radius))

    picture = sky(rng["sky"], width, height, horizon, options.clouds)
    layer, canopy_box = parachute(
        rng["canopy"],
        width,
        height,
        scale,
        center=(options.canopy_x * width, options.canopy_y * height),
        size=options.canopy_size * width,
        gores=options.gores,
        pitch=options.canopy_pitch,
        roll=options.canopy_roll,
        lines=options.lines,
    )
    picture = over(picture, blur(layer, 0.35))
    picture = over(picture, blur(trees(rng["trees"], width, height, horizon), 0.35 * options.aperture))
    picture = over(picture, blur(ground(rng["ground"], view), 1.0))
    ball = golf_ball(
        rng["ball"],
        width,
        height,
        scale,
        center=center,
        radius=radius,
        dimples=options.dimples,
        depth=options.dimple_depth,
    )
    tufts = lawn(
        rng["grass"], view, scale, count=options.blades, length=options.grass_length, aperture=options.aperture
    )
    for nearest, layer in tufts:
        picture = over(picture, layer)
        if nearest == BALL_Z:
            picture = over(picture, ball)

    ball_box = [center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius]
    limits = np.array([width, height, width, height])
    boxes = {"golf ball": ball_box, "parachute": canopy_box}
    boxes = {name: np.clip(np.round(box), 0, limits).astype(int).tolist() for name, box in boxes.items()}
    return develop(rng["film"], picture, options.grain), boxes


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    picture, boxes = render(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(options.out, quality=options.quality, optimize=True)
    facts = {
        "boxes": boxes,
        "size": [options.width, options.height],
        "license": "Apache-2.0",
        "source": "rendered by examples/render_example.py of jaxcam",
    }
    options.out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB, {boxes}")


if __name__ == "__main__":
    main()
