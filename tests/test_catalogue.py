"""The published weights: their addresses, digests, classes and preprocessing."""

from __future__ import annotations

import pytest

from jaxcam.models.graph import graph
from jaxcam.models.trees import flatten
from jaxcam.zoo.catalogue import CATALOGUE, class_names


def test_the_names_of_imagenet():
    names = class_names("imagenet")
    assert len(names) == 1000
    known = {
        0: "tench", 217: "English springer", 482: "cassette player", 491: "chain saw", 497: "church",
        566: "French horn", 569: "garbage truck", 571: "gas pump", 574: "golf ball", 701: "parachute",
        134: "crane (bird)", 517: "crane (machine)", 638: "maillot", 639: "maillot (tank suit)", 999: "toilet tissue",
        264: "Cardigan Welsh corgi", 474: "cardigan", 281: "tabby", 340: "zebra", 847: "tank", 954: "banana",
    }  # fmt: skip
    assert {i: names[i] for i in known} == known


@pytest.mark.parametrize(("data", "number"), [("imagenet", 1000), ("voc", 20), ("coco", 80)])
def test_every_class_can_be_named(data, number):
    names = class_names(data)
    assert len({n.lower() for n in names}) == len(names) == number
    assert all(n == n.strip() and n.isascii() and n for n in names)


def test_the_order_of_voc_and_coco():
    assert class_names("voc") == tuple(sorted(class_names("voc")))
    coco = class_names("coco")
    assert (coco[0], coco[11], coco[39], coco[79]) == ("person", "stop sign", "bottle", "toothbrush")


def test_every_entry_can_be_fetched_and_checked():
    assert {f"vgg{d}{n}" for d in (11, 13, 16, 19) for n in ("", "_bn")} < set(CATALOGUE)
    assert {f"resnet{d}" for d in (18, 34, 50, 101, 152)} | {"resnet50.v2", "vgg16.tv_in1k"} < set(CATALOGUE)
    assert len({e.cached_as for e in CATALOGUE.values()}) == len(CATALOGUE)
    for name, entry in CATALOGUE.items():
        algorithm, _, digest = entry.digest.partition(":")
        assert entry.name == name and entry.url.startswith("https://") and "/" not in entry.cached_as
        assert (algorithm, len(digest)) in {("sha256", 8), ("sha256", 64), ("md5", 32)} and int(digest, 16)
        if len(digest) == 8:  # the publisher's own rule for naming files
            assert f"-{digest}.pth" in entry.url
        assert len(entry.class_names) == entry.config.num_classes
        assert entry.licence in ("BSD-3-Clause", "CC-BY", "MIT", "not stated") and entry.terms
        assert entry.provenance["licence"] == f"{entry.licence}; {entry.terms}"
        assert 4 * entry.parameters < entry.largest
    assert CATALOGUE["vgg16"].url == "https://download.pytorch.org/models/vgg16-397923af.pth"
    assert CATALOGUE["resnet50.v2"].preprocessing.resize_to == 232
    assert CATALOGUE["resnet50.coco"].multi_label and CATALOGUE["resnet50.coco"].config.ceil_pool


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "vgg16.voc"])
def test_the_number_of_parameters_is_that_of_the_architecture(name):
    entry = CATALOGUE[name]
    learnt = {k: v for k, v in flatten(graph(entry.config)[2]).items() if k.rpartition(".")[2] not in ("mean", "var")}
    assert sum(v.size for v in learnt.values()) == entry.parameters
