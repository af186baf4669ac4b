"""How much of a run is lost when it is killed: a unit, which is as small as its estimated cost asks for."""

from __future__ import annotations

import networks
import pytest

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.evaluate import units
from jaxcam.evaluate.manifest import BATCH
from jaxcam.methods.registry import METHODS, request
from jaxcam.models.graph import graph
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig


@pytest.fixture(scope="module")
def large():
    """VGG16 without its weights, which nothing here asks for."""
    config = VGGConfig(depth=16)
    return Network("vgg16", config, graph(config)[2], tuple(map(str, range(1000))), Preprocessing())


def test_small_networks_are_taken_a_dozen_at_a_time():
    assert units.on_a_processor(networks.network(networks.VGG), [request("lift_cam")], ["ic", "insertion"], 50) == BATCH


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.batched])
def test_a_method_that_makes_a_map_at_a_time_makes_units_of_one_picture(method):
    asked = [request("lift_cam"), request(method)]
    assert units.on_a_processor(networks.network(networks.VGG), asked, ["ic"], 50) == 1


def test_units_shrink_with_what_a_picture_costs(large, monkeypatch):
    def pictures(methods: int, *metrics: str, steps: int = 50) -> int:
        return units.on_a_processor(large, [request("lift_cam")] * methods, metrics, steps)

    once = units._operations(large)
    assert once == pytest.approx(30e9, rel=0.05)  # 15.5 thousand million products and sums, by torchvision
    monkeypatch.setattr(units, "_operations", lambda network: once)
    few, more, most = pictures(1, "ic", "ad"), pictures(2, "ic", "ad"), pictures(1, "insertion", "deletion", steps=100)
    assert BATCH >= few > more > most == 1
    assert pictures(1, "ic") > pictures(1, "ic", "max_sensitivity")  # which makes maps again
    # A unit takes half a minute by the estimate, or holds the one picture that it must.
    assert more * (1 + 2 * (4 + 2)) * once / 5e10 <= units.SECONDS
