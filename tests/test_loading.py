"""Every way to name, load and convert a network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from loopback import serving
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.explanation import explain as explanation
from jaxcam.models.graph import graph
from jaxcam.models.network import Network
from jaxcam.models.trees import flatten
from jaxcam.models.vgg import VGGConfig
from jaxcam.zoo import catalogue
from jaxcam.zoo import load as zoo
from jaxcam.zoo.catalogue import CATALOGUE, class_names
from jaxcam.zoo.store import save_checkpoint

TINY = VGGConfig(depth=11, width=1 / 32, hidden=8, num_classes=7, pool_size=2)
RULES = Preprocessing(size=64, resize="squash")


def drawn(config: VGGConfig, **fields) -> Network:
    """A network whose numbers are all different, so that an exchange of any two shows; nothing is compiled."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), graph(config)[2])
    classes = fields.pop("classes", tuple(map(str, range(config.num_classes))))
    return Network(fields.pop("name", "tiny"), config, params, classes, RULES, **fields)


@pytest.fixture(scope="module")
def network():
    return drawn(TINY, classes=tuple("abcdefg"), provenance={"licence": "CC0-1.0"})


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The network as PyTorch would have it."""
    from jaxcam.converters import save_torchvision_safetensors

    path = tmp_path_factory.mktemp("foreign") / "mine.safetensors"
    save_torchvision_safetensors(path, network)
    return path


def same_weights(a: Network, b: Network) -> bool:
    a, b = flatten(a.params), flatten(b.params)
    return a.keys() == b.keys() and all(np.array_equal(np.asarray(a[k]), np.asarray(b[k])) for k in a)


# Loading by name.


@pytest.fixture
def published(exported, network, monkeypatch, tmp_path):
    """A name of the catalogue, `vgg11`, whose file lies on a server on this machine."""
    content = exported.read_bytes()
    monkeypatch.setenv("JAXCAM_CACHE", str(tmp_path / "cache"))
    with serving(content) as server:
        entry = dataclasses.replace(
            CATALOGUE["vgg11"], url=f"{server.address}/mine.safetensors", preprocessing=RULES,
            digest="sha256:" + hashlib.sha256(content).hexdigest()[:8], config=TINY, classes="small",
        )  # fmt: skip
        monkeypatch.setitem(CATALOGUE, "vgg11", entry)
        names = {"small": network.classes}
        monkeypatch.setattr(catalogue, "class_names", lambda data: names.get(data) or class_names(data))
        yield server


def test_a_published_network_is_fetched_converted_and_kept(published, network):
    for _ in range(2):
        loaded = jaxcam.load("vgg11")
        assert same_weights(loaded, network)
        assert (loaded.name, loaded.classes, loaded.preprocessing) == ("vgg11", network.classes, RULES)
        assert loaded.provenance["licence"].startswith("not stated; ")
        assert loaded.provenance["source"].startswith("torchvision")
        assert loaded.provenance["file"] == "mine.safetensors" and len(loaded.provenance["sha256"]) == 64
    assert len(published.requests) == 1


def test_a_published_network_that_is_another_is_refused(published, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "vgg11", dataclasses.replace(CATALOGUE["vgg11"], digest="sha256:00000000"))
    with pytest.raises(JaxcamError, match="does not hold the published file"):
        jaxcam.load("vgg11")


def test_an_unknown_name_is_told_with_the_nearest(tmp_path):
    with pytest.raises(JaxcamError, match="did you mean resnet50"):
        jaxcam.load("resnet5O")
    with pytest.raises(JaxcamError, match="no such file or folder"):
        jaxcam.load(weights=tmp_path / "none.pth")


# Loading what lies on the disk.


def test_a_checkpoint_gives_back_every_bit(network, tmp_path):
    save_checkpoint(tmp_path / "net", network)
    assert {p.name for p in tmp_path.iterdir()} == {"net"}
    for loaded in (jaxcam.load(tmp_path / "net"), jaxcam.load(weights=str(tmp_path / "net"))):
        assert same_weights(loaded, network)
        for field in ("name", "config", "classes", "preprocessing", "multi_label", "provenance"):
            assert getattr(loaded, field) == getattr(network, field)
    manifest = json.loads((tmp_path / "net" / "network.json").read_text())
    assert manifest["layers"] == list(network.layers) and manifest["architecture"]["depth"] == 11


def test_a_checkpoint_is_replaced_as_a_whole_and_other_folders_are_left_alone(network, tmp_path):
    save_checkpoint(tmp_path / "net", network)
    other = dataclasses.replace(network, params=jax.tree.map(lambda x: -x, network.params), name="other")
    save_checkpoint(tmp_path / "net", other)
    assert same_weights(jaxcam.load(tmp_path / "net"), other)
    assert {p.name for p in tmp_path.iterdir()} == {"net"}
    (tmp_path / "net" / "diary.txt").touch()
    with pytest.raises(JaxcamError, match="holds other files .diary.txt"):
        save_checkpoint(tmp_path / "net", network)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "net"):
        with pytest.raises(JaxcamError, match="choose another"):
            save_checkpoint(place, network)


def test_a_broken_checkpoint_is_one_line(network, tmp_path):
    folder = tmp_path / "net"
    save_checkpoint(folder, network)
    text = (folder / "network.json").read_text()
    wrong = {
        '"hidden": 8': ('"hidden": 9', "does not hold the architecture"),
        '"width": 0.03125': ('"width": 200.0', "cannot hold"),
        '"depth": 11': ('"depth": 12', "describes no network"),
        '"depth": 11,': ('"depth": 13,', "does not hold the architecture"),
    }
    for old, (new, match) in wrong.items():
        assert old in text
        (folder / "network.json").write_text(text.replace(old, new))
        with pytest.raises(JaxcamError, match=match) as e:
            jaxcam.load(folder)
        assert "\n" not in str(e.value)
    (folder / "network.json").write_text(text)
    for file in (folder / "weights.orbax").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(JaxcamError, match="weights.orbax: is damaged"):
        jaxcam.load(folder)
    shutil.rmtree(folder / "weights.orbax")
    with pytest.raises(JaxcamError, match="no such folder"):
        jaxcam.load(folder)


def test_a_foreign_file_is_a_network(exported, network, tmp_path):
    for loaded in (jaxcam.load(exported), jaxcam.load(weights=exported)):
        assert same_weights(loaded, network)
        assert loaded.name == "mine" and loaded.classes == tuple("0123456")
    known = jaxcam.load("vgg11", weights=exported)  # nothing is downloaded
    assert same_weights(known, network) and known.preprocessing == CATALOGUE["vgg11"].preprocessing
    with pytest.raises(JaxcamError, match="mine.safetensors"):
        jaxcam.load("resnet50", weights=exported)


def test_weights_for_a_network_of_ones_own_take_its_classes_and_preprocessing(exported, network, tmp_path):
    other = dataclasses.replace(network, params=jax.tree.map(lambda x: -x, network.params))
    jaxcam.save_network(tmp_path / "net", other)
    loaded = jaxcam.load(str(tmp_path / "net"), weights=exported)
    assert same_weights(loaded, network) and not same_weights(loaded, other)
    assert (loaded.classes, loaded.preprocessing) == (network.classes, RULES)
    with pytest.raises(JaxcamError, match="another architecture"):
        jaxcam.load("vgg16", weights=tmp_path / "net")


def test_classes_are_imagenets_where_their_number_is(tmp_path):
    from jaxcam.converters import save_torchvision_safetensors

    save_torchvision_safetensors(tmp_path / "a.safetensors", drawn(dataclasses.replace(TINY, num_classes=1000)))
    loaded = jaxcam.load(tmp_path / "a.safetensors")
    assert loaded.classes == class_names("imagenet") and "imagenet" in loaded.provenance["classes"]


# The command line.


def test_convert_there_and_back_gives_every_bit(exported, tmp_path, capsys):
    """torchvision's names -> Orbax -> safetensors."""
    (tmp_path / "classes.txt").write_text("\n".join("tuvwxyz") + "\n")
    arguments = ["--classes", str(tmp_path / "classes.txt"), "--licence", "MIT", "--name", "home made/1"]
    assert main(["convert", str(exported), "--out", str(tmp_path / "net"), *arguments]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "22 tensors in torchvision's names" in told and str(tmp_path / "net") in told
    manifest = json.loads((tmp_path / "net" / "network.json").read_text())
    assert manifest["classes"] == list("tuvwxyz") and manifest["name"] == "home made/1"
    assert {"family", "architecture", "layers", "preprocessing"} < set(manifest)
    assert manifest["provenance"]["licence"] == "MIT" and manifest["provenance"]["source"] == "mine.safetensors"
    assert manifest["provenance"]["sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert main(["convert", str(tmp_path / "net"), "--to", "safetensors", "--out", str(tmp_path / "back")]) == 0
    back = tmp_path / "back" / "home_made_1.safetensors"
    assert main(["convert", str(back), "--to", "safetensors", "--out", str(tmp_path / "x.safetensors")]) == 0
    from jaxcam.converters import read_tensors

    first, second, third = (read_tensors(p) for p in (exported, back, tmp_path / "x.safetensors"))
    assert list(first) == list(second) == list(third) and "features.0.weight" in first
    assert all(np.array_equal(first[k], second[k]) and np.array_equal(first[k], third[k]) for k in first)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{mine}", "--out", "{file}/net"], "cannot be written"),
        (["{mine}", "--out", "{dir}/net", "--classes", "voc"], "names 20 classes, and the network has 7"),
        (["{mine}", "--out", "{dir}/net", "--classes", "{double}"], "two classes 'B'"),
        (["{mine}", "--out", "{dir}/net", "--classes", "{dir}/none"], "there is no such file"),
        (["{mine}", "--out", "{dir}/net", "--model", "resnet18"], "mine.safetensors"),
        (["{dir}", "--out", "{dir}/net", "--model", "vgg11"], "is no file of weights"),
        (["{dir}/none.pth", "--out", "{dir}/net"], "no model called"),
        (["{file}", "--out", "{dir}/net"], "file"),
        (["{mine}"], "--out"),
    ],
)
def test_what_convert_cannot_do_is_one_line(exported, tmp_path, capsys, arguments, told):
    (tmp_path / "file").write_text("no weights")
    (tmp_path / "double").write_text("a\nb\nB\nd\ne\nf\ng\n")
    places = {"mine": exported, "dir": tmp_path, "file": tmp_path / "file", "double": tmp_path / "double"}
    assert main(["convert", *(a.format(**places) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("jaxcam: error: ") and told in err
    assert not (tmp_path / "net").exists()


def test_models_lists_what_can_be_had(published, capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in CATALOGUE) and "in the cache" not in out
    assert main(["models", "resnet18"]) == 0
    out = capsys.readouterr().out
    for part in ("resize_to 256", "BSD-3-Clause", "resnet18-f37072fd.pth", "69.8 % top-1", "not there yet", "layer4.1"):
        assert part in out
    assert not published.requests  # nothing is downloaded to be shown
    jaxcam.load("vgg11")
    assert main(["models"]) == 0 and "in the cache" in capsys.readouterr().out


def test_explain_takes_weights(exported, network, tmp_path, capsys, monkeypatch):
    explained: list[Network] = []
    monkeypatch.setattr(explanation, "explain_each", lambda network, *_, **__: explained.append(network) or [])
    Image.new("RGB", (80, 90)).save(tmp_path / "p.png")
    arguments = ["explain", str(tmp_path / "p.png"), "--no-figure", "--out", str(tmp_path / "out"), "--weights"]
    assert main([*arguments, str(exported)]) == 0
    assert main([*arguments, str(exported), "--model", "vgg11"]) == 0
    assert all(same_weights(n, network) for n in explained) and [n.name for n in explained] == ["mine", "vgg11"]
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "none.pth")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_default_network_is_still_the_default(monkeypatch, network, tmp_path):
    monkeypatch.setattr(zoo, "_BUNDLED", tmp_path)
    with pytest.raises(JaxcamError, match="no model called 'efficientnet_lite0'"):
        zoo.load()
    jaxcam.save_network(tmp_path / "efficientnet_lite0", network)
    assert same_weights(zoo.load(), network) and same_weights(zoo.load("efficientnet_lite0"), network)
