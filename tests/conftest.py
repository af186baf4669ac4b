"""Settings for the whole suite: CPU unless told otherwise, eight simulated devices, test data that may be absent."""

from __future__ import annotations

import os
import pathlib
import sys

# Before jax is imported: a laptop's accelerator must not decide what the tests measure.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # `import heads`, `import oracles` under every import mode

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)
# Strict dtype promotion is not set here: it would also judge the heads and networks users bring (and Flax's own).
# test_transforms.py turns it on around the library's methods instead.


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of test data (JAXCAM_TEST_DATA, else ../shared/data beside the repository); skips where absent."""
    asked = os.environ.get("JAXCAM_TEST_DATA")
    folder = pathlib.Path(asked) if asked else HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set JAXCAM_TEST_DATA)")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty download cache, and a downloader that does not wait."""
    from jaxcam.zoo import download

    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXCAM_CACHE", str(folder))
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)  # the file server is on loopback
    monkeypatch.setattr(download, "_PAUSES", (0.0,) * 4)
    monkeypatch.setattr(download, "_TIMEOUT", 10.0)
    return folder


@pytest.fixture
def server():
    """A file server on loopback."""
    from loopback import CONTENT, serving

    with serving(CONTENT) as files:
        yield files
