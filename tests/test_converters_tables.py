"""Tables of weights under any prefix or key, beside others and beside tensors that belong to no network."""

from __future__ import annotations

import foreign_files as ff
import numpy as np
import pytest
from hostile_files import FIRST, STATE
from safetensors.numpy import save_file

from jaxcam.cli import main
from jaxcam.converters import convert, read_tensors
from jaxcam.errors import JaxcamError

AVERAGE = {k: v + np.float32(0.25) for k, v in STATE.items()}
ONE = np.ones(10, np.float32)


def first(network) -> np.ndarray:
    return np.asarray(network.params["conv1_1"]["kernel"]).transpose(3, 2, 0, 1)


def stored(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def under(prefix: str, state) -> dict:
    return {prefix + k: v for k, v in state.items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "encoder.", "network.0.", "student.model.module.", "a.b.c.d.", "features."]
)
def test_any_prefix(tmp_path, prefix):
    network = convert(stored(tmp_path, under(prefix, STATE)))
    np.testing.assert_array_equal(first(network), STATE[FIRST])
    assert network.provenance.get("table", "") == prefix.rstrip(".")
    assert "left" not in network.provenance and "other_tables" not in network.provenance


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["criterion.weight", "n_averaged", "module.n_averaged", "proj.\x1b[2J"])
def test_what_stands_beside_is_named_and_left(tmp_path, prefix, name, capsys):
    path = stored(tmp_path, under(prefix, STATE) | {name: ONE})
    network = convert(path)
    np.testing.assert_array_equal(first(network), STATE[FIRST])
    assert network.provenance["left"] == 1
    assert main(["convert", str(path), "--out", str(tmp_path / "net")]) == 0
    out = capsys.readouterr().out
    assert "1 beside them left: " in out and "\x1b" not in out


def test_settings_and_callbacks_of_training_libraries_lie_beside_the_weights(tmp_path):
    """A checkpoint of Lightning's, with hyperparameters of its own class and of OmegaConf's; nothing of it is built."""
    settings = b"cpytorch_lightning.utilities.parsing\nAttributeDict\n)\x81}" + ff.text("lr") + b"K\x01sb"
    configured = b"comegaconf.dictconfig\nDictConfig\n)\x81}" + ff.text("_content") + b"}sb"
    kind = b"cenum\nAuto\n" + ff.text("x") + b"\x85R"
    beside = ff.text("hyper_parameters") + settings + ff.text("config") + configured + ff.text("kind") + kind
    pickled = b"\x80\x02}(" + beside + ff.text("state_dict") + ff.table(STATE) + b"u."
    path = ff.write_zip(tmp_path / "w.ckpt", STATE, pickled=pickled)
    np.testing.assert_array_equal(first(convert(path)), STATE[FIRST])


def test_an_unknown_layer_within_the_network_is_still_refused(tmp_path):
    with pytest.raises(JaxcamError, match=r"features.99.weight \(10,\) belongs to no layer"):
        convert(stored(tmp_path, under("module.", STATE) | {"module.features.99.weight": ONE}))


@pytest.mark.parametrize(
    "averaged",
    ["ema", "model_ema.module", "teacher", "ema_model", "swa", "avg_model", "encoder_k", "lookahead.slow", "ma"],
)
def test_averages_are_told_and_chosen(tmp_path, averaged, capsys):
    path = stored(tmp_path, under(averaged + ".", AVERAGE) | under("model.", STATE))
    network = convert(path)
    np.testing.assert_array_equal(first(network), STATE[FIRST])
    assert network.provenance["other_tables"] == [averaged]
    np.testing.assert_array_equal(first(convert(path, table=averaged)), AVERAGE[FIRST])
    with pytest.raises(JaxcamError, match="no table of weights in the file called 'nowhere'"):
        convert(path, table="nowhere")
    assert main(["convert", str(path), "--out", str(tmp_path / "net"), "--table", averaged]) == 0
    assert "--table takes another: model" in capsys.readouterr().out


@pytest.mark.parametrize(
    "keys", [("model", "ema"), ("state_dict", "model_ema"), ("module", "ema"), ("params", "params_ema")]
)
def test_keys_of_a_training_script(tmp_path, keys):
    arrays = [*STATE.items(), *AVERAGE.items()]
    tables = []
    for key, part in zip(keys, (range(len(STATE)), range(len(STATE), len(arrays))), strict=True):
        items = b"".join(ff.text(arrays[i][0]) + ff.tensor(str(i), arrays[i][1], legacy=False) for i in part)
        tables.append(ff.text(key) + b"}(" + items + b"u")
    pickled = b"\x80\x02}(" + tables[1] + ff.text("epoch") + ff.integer(3) + tables[0] + b"u."
    path = ff.write_zip(tmp_path / "w.pth", dict(enumerate(v for _, v in arrays)), pickled=pickled)
    np.testing.assert_array_equal(first(convert(path)), STATE[FIRST])
    np.testing.assert_array_equal(first(convert(path, table=keys[1])), AVERAGE[FIRST])
    if keys[0] in ("model", "state_dict"):
        assert set(read_tensors(path)) == set(STATE)


def test_one_table_under_two_keys(tmp_path):
    """The same storages twice: a file whose tensors seem larger than itself, and an honest one."""
    table = ff.table(STATE)
    pickled = b"\x80\x02}(" + ff.text("model") + table + ff.text("best") + table + b"u."
    path = ff.write_zip(tmp_path / "w.pth", STATE, pickled=pickled)
    np.testing.assert_array_equal(first(convert(path)), STATE[FIRST])


@pytest.mark.parametrize("head", ["", "head.", "model.fc_head."])
def test_a_head_under_a_prefix_of_its_own(tmp_path, head):
    last = {k: v for k, v in STATE.items() if k.startswith("classifier.6.")}
    assert len(last) == 2
    body = {k: v for k, v in STATE.items() if k not in last}
    network = convert(stored(tmp_path, under("backbone.", body) | under(head, last) | {"criterion.weight": ONE}))
    np.testing.assert_array_equal(np.asarray(network.params["fc8"]["kernel"]).T, last["classifier.6.weight"])
    assert network.provenance["apart"] == sorted(head + k for k in last) and network.provenance["left"] == 1


def test_a_head_of_three_layers_under_a_prefix_of_its_own(tmp_path):
    dense = {k: v for k, v in STATE.items() if k.startswith("classifier.")}
    body = {k: v for k, v in STATE.items() if k not in dense}
    network = convert(stored(tmp_path, under("backbone.", body) | under("head.", dense)))
    assert network.provenance["apart"] == sorted("head." + k for k in dense)


def test_of_two_heads_none_is_guessed(tmp_path):
    last = {k: v for k, v in STATE.items() if k.startswith("classifier.6.")}
    body = {k: v for k, v in STATE.items() if k not in last}
    with pytest.raises(JaxcamError, match=r"classifier.6.weight .* is missing"):
        convert(stored(tmp_path, under("backbone.", body) | under("a.", last) | under("b.", last)))
