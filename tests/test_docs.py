"""The guide and the README: every Python block runs, page by page, and the parser takes every command line."""

import importlib.util
import pathlib
import re
import shlex

import jax
import pytest
from PIL import Image

from jaxcam.cli import main, parser
from jaxcam.cli.arguments import parse
from jaxcam.cli.explain import EXAMPLE
from jaxcam.cutting.libraries import LIBRARIES
from jaxcam.methods.registry import METHODS
from jaxcam.methods.targets import TARGETS
from jaxcam.metrics import METRICS
from jaxcam.models.registry import FAMILIES
from jaxcam.models.resnet import RESNET_LAYERS
from jaxcam.transforms import coalition, deeplift, lrp
from jaxcam.transforms.primitives import VOCABULARY

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
#: Blocks that hold one of these words need a package that may be absent.
OPTIONAL = {"import equinox": "equinox", "import keras": "keras", "import haiku": "haiku", ".serialize(": "flatbuffers"}
#: Commands so cheap that they are run, after the page's Python.
CHEAP = ("report", "methods", "metrics", "models", "targets")


def blocks(page: pathlib.Path, python: bool) -> list[tuple[int, str]]:
    """The page's blocks of Python, or all others, each with the line that it begins in."""
    text = page.read_text(encoding="utf-8")
    found = [(text.count("\n", 0, m.start(2)), m[1], m[2]) for m in BLOCK.finditer(text)]
    return [(line, body) for line, language, body in found if (language == "python") == python]


def commands(page: pathlib.Path) -> list[list[str]]:
    """The arguments of every `jaxcam ...` line outside Python."""
    text = "\n".join(body for _, body in blocks(page, python=False)).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("jaxcam ")]


def lacking(body: str) -> bool:
    """Whether a block needs a package that is not installed."""
    return any(word in body and not importlib.util.find_spec(package) for word, package in OPTIONAL.items())


def make_pictures(folder: pathlib.Path) -> None:
    """An ImageNet-style folder of two classes with two pictures and their boxes each."""
    rows = ["image,wnid,x0,y0,x1,y1"]
    with Image.open(EXAMPLE) as photo:
        for wnid, box in {"n03445777": (13, 193, 264, 444), "n03888257": (99, 4, 441, 301)}.items():
            (folder / "val" / wnid).mkdir(parents=True)
            for i, factor in enumerate((1, 2)):
                small = photo.convert("RGB").resize((224 // factor, 224 // factor))
                small.save(folder / "val" / wnid / f"{wnid}_{i}.jpg")
                edges = ",".join(f"{edge / 2 / factor:.1f}" for edge in box)
                rows.append(f"val/{wnid}/{wnid}_{i}.jpg,{wnid},{edges}")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")


#: Where pages add entries.
DECLARED = (
    (METHODS, METRICS, TARGETS, VOCABULARY, RESNET_LAYERS, FAMILIES["resnet"].architectures)
    + tuple(transformation.RULES._by_name for transformation in (deeplift, lrp, coalition))
    + (LIBRARIES,)
)


@pytest.fixture(autouse=True)
def no_entry_more():
    """The entries that a page adds go with it."""
    before = [dict(entries) for entries in DECLARED]
    yield
    for entries, old in zip(DECLARED, before, strict=True):
        entries.clear()
        entries.update(old)


@pytest.fixture
def quick_keys(page):
    """Keys whose draws compile in a moment: the default ones take most of a small network's time."""
    if "import keras" in page.read_text(encoding="utf-8"):  # whose seeds are of the default kind
        yield
        return
    before = jax.config.jax_default_prng_impl
    jax.config.update("jax_default_prng_impl", "rbg")
    yield
    jax.config.update("jax_default_prng_impl", before)


def test_there_are_pages_blocks_and_commands():
    assert len(PAGES) >= 4
    assert sum(len(blocks(page, python=True)) for page in PAGES) >= 15
    assert sum(len(commands(page)) for page in PAGES) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page(page, tmp_path, monkeypatch, capsys, quick_keys):
    (tmp_path / "photo.jpg").write_bytes(EXAMPLE.read_bytes())
    make_pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    space: dict = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    for line, body in blocks(page, python=True):
        if (named := re.match(r"# (\w+\.py)\n", body)) is not None:  # that file, which commands may name
            (tmp_path / named[1]).write_text(body)
        if not lacking(body):
            # Blank lines before it: a traceback names the page's own line.
            exec(compile("\n" * line + body, str(page), "exec"), space)
    for arguments in commands(page):
        options = parse(*parser(), arguments)
        assert callable(options.run)
        # The README's run has taken minutes, by which it is not made here.
        if arguments[0] in CHEAP and (page.stem != "README" or arguments[0] != "report"):
            assert main(arguments) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_methods_of_commands_exist(page):
    from jaxcam.methods.registry import request

    for arguments in commands(page):
        options = parse(*parser(), arguments)
        if options.plugin:  # which names some of its own
            continue
        named = [*(getattr(options, "method", None) or ()), *(getattr(options, "methods", None) or ())]
        for name in [*named, *filter(None, [getattr(options, "reference", None)])]:
            assert name == "all" or request(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("\n") < 250
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", BLOCK.sub("", text)):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.is_file() or linked.is_dir() and not anchor, target
        if page.parent == DOCS:  # what lies elsewhere has no page of the site
            assert DOCS in linked.resolve().parents, target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in slugs, target
