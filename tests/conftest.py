"""Settings for the whole suite: CPU unless told otherwise, eight simulated devices, test data that may be absent."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import pathlib
import platform
import sys
import tempfile

# Before jax is imported: a laptop's accelerator must not decide what the tests measure.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Most of the time goes into compiling. LLVM's optimisations are left out, XLA's stay; and what one worker, or a
    # process that a test starts, has compiled is there for the others, all of which inherit these settings.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # A program in one piece: taking small ones apart for several threads costs a third of the time to compile them.
    _flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Short vectors take LLVM a tenth less time, and even what computes most here runs no longer for them.
        _flags.append("--xla_cpu_max_isa=AVX2")
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # a later one does not know the flag, and ends
        # The older way to write a loop for LLVM takes half the time of the one through MLIR.
        _flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_FLAGS", " ".join(_flags))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _PROGRAMS = tempfile.TemporaryDirectory(prefix="jaxcam-tests-", ignore_cleanup_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
    # Of each error raised below jax.jit, JAX would look up every line of its traceback in the file system.
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")
    # The smallest are made again in less time than it takes to write all of them.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.15")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # `import heads`, `import oracles` under every import mode

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)
    # An evaluation computes on the first of them unless it names more: each would compile programs of its own.
    _local_devices = jax.local_devices
    jax.local_devices = lambda *args, **named: _local_devices(*args, **named)[:1]
# Strict dtype promotion is not set here: it would also judge the heads and networks users bring (and Flax's own).
# test_transforms.py turns it on around the library's methods instead.


#: Bytes that a worker holds before the compiled programs are dropped between two tests; one test may take half as much.
HELD = 7 << 28

#: Markers of what takes long, and longer than what the others test: public networks, notebooks, an example's training.
ASKED_FOR = ("zoo", "examples")


def held() -> int:
    """Bytes of memory this process holds now; where the system does not say, none."""
    with contextlib.suppress(OSError):
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One worker more than there are processors: an eighth of the time, some test waits for a process of its own."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish():
    """What the imports made stays; tracing makes so much more that looking through all of it over and over is slow."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_collection_modifyitems(config, items):
    """Tests that share what one compiles come together; what is `ASKED_FOR` runs where `-m` does."""
    order: dict = {}
    for item in items:  # of a file that says so, the tests of one value of a parameter lie side by side: on one worker
        named = getattr(item.module, "TOGETHER", None)
        value = item.callspec.params.get(named) if named and hasattr(item, "callspec") else None
        order[item] = (order.setdefault(item.path, len(order)), order.setdefault((item.path, value), len(order)))
    items.sort(key=order.__getitem__)
    others = [name for name in ASKED_FOR if name not in (config.option.markexpr or "")]
    left = [item for item in items if any(item.get_closest_marker(name) for name in others)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Drops the compiled programs at the end of each file and where they are many: kept, they are gigabytes."""
    if nextitem is None or nextitem.path != item.path or held() > HELD:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc keeps what is freed unless it is asked
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of test data (JAXCAM_TEST_DATA, else ../shared/data beside the repository); skips where absent."""
    asked = os.environ.get("JAXCAM_TEST_DATA")
    folder = pathlib.Path(asked) if asked else HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set JAXCAM_TEST_DATA)")
    return folder


@pytest.fixture
def optimised():
    """All of XLA's optimisations: without them, as the rest of the suite has it, older ones do not heed a barrier."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


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


@pytest.fixture
def fails(capsys):
    """Checks that a command fails with one line, and returns it."""

    from jaxcam.cli import main

    def check(*arguments, status=2):
        assert main([str(a) for a in arguments]) == status
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("jaxcam: error: "), lines
        return lines[0]

    return check


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A headless browser; skips where there is none."""
    import browser

    binary = browser.find()
    if binary is None:
        pytest.skip("no headless Chromium (set JAXCAM_CHROMIUM to its binary)")
    with browser.Browser(binary, str(tmp_path_factory.mktemp("profile"))) as found:
        yield found
