"""Where the networks look in the bundled picture: `python -m benchmarks.example`.

For each bundled network, method and object: the share of the map's energy inside the object's own
box, inside the other object's box, and the share that a uniform map would have there.
"""

from __future__ import annotations

import json
import pathlib
import sys

from benchmarks.timing import save
from jaxcam.explanation.explain import explain
from jaxcam.zoo.load import bundled, load

PICTURE = pathlib.Path(__file__).parents[1] / "jaxcam" / "data" / "bundled" / "golf_ball_and_parachute.jpg"


def main() -> int:
    """Prints a Markdown table; 1 where LIFT-CAM puts less than half of its energy on the object asked about."""
    boxes = json.loads(PICTURE.with_suffix(".json").read_text())["boxes"]
    failed, rows = False, []
    print("| network | method | class | probability | own box | other box | uniform |\n|---|---|---|---|---|---|---|")
    for name in bundled():
        (explanation,) = explain(load(name), PICTURE, methods="all", targets=list(boxes))
        for result in explanation.results:
            heat = result.heatmap
            shares = {}
            for what, (x0, y0, x1, y1) in boxes.items():
                shares[what] = float(heat[y0:y1, x0:x1].sum() / heat.sum())
            x0, y0, x1, y1 = boxes[result.class_name]
            own = shares.pop(result.class_name)
            (other,) = shares.values()
            uniform = (x1 - x0) * (y1 - y0) / heat.size
            failed |= result.method == "lift_cam" and own < 0.5
            rows.append(
                {
                    "network": name,
                    "method": result.method,
                    "class": result.class_name,
                    "probability": result.probability,
                    "own": own,
                    "other": other,
                    "uniform": uniform,
                }
            )
            print(
                f"| {name} | {result.method} | {result.class_name} | {result.probability:.1%} "
                f"| {own:.1%} | {other:.1%} | {uniform:.1%} |"
            )
    save("example", {"rows": rows})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
