"""The site builds without a warning, says something of every public name, method and page, and fits a phone."""

import dataclasses
import importlib.util
import pathlib
import shutil
import subprocess
import sys

import browser
import pytest

import jaxcam

ROOT = pathlib.Path(__file__).parents[1]
NEEDED = ("sphinx", "myst_nb", "furo")
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason=f"needs {', '.join(NEEDED)}: pip install '.[docs]'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Without pictures and outputs; from a copy, as pages are written beside the others."""
    folder = tmp_path_factory.mktemp("site")
    made = shutil.ignore_patterns("_build", "api", "gallery", "notebooks", "__pycache__")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=made)
    (folder / "examples").mkdir()
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        shutil.copyfile(notebook, folder / "examples" / notebook.name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-t", "quick", "docs", "html"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_says_something_of_everything(site):
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    described = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    public = {f"jaxcam.{name}" for name in jaxcam.__all__ if name != "__version__"}
    assert public <= described
    for module in ("cutting", "metrics", "shapley", "transforms"):
        names = importlib.import_module(f"jaxcam.{module}").__all__
        assert {
            f"jaxcam.{name}" if f"jaxcam.{name}" in public else f"jaxcam.{module}.{name}" for name in names
        } <= described
    gallery = (site / "gallery" / "index.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in gallery and m.title in gallery for name, m in jaxcam.METHODS.items())


@pytest.mark.slow
def test_machines_find_every_page(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.stem != "index":
            assert f"]({page.name}): " in text
            assert (site / page.name).read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone(site, tmp_path):
    binary = browser.find()
    if binary is None:
        pytest.skip("no headless Chromium (set JAXCAM_CHROMIUM to its binary)")
    pages = [page for folder in (".", "api", "gallery", "notebooks") for page in (site / folder).glob("*.html")]
    assert len(pages) > 20
    with browser.Browser(binary, str(tmp_path)) as chromium:
        for page in pages:
            chromium.open(page.resolve().as_uri(), width=400, dark=False)
            assert chromium.value("document.documentElement.scrollWidth") <= 400, page
            broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
            assert chromium.value(broken) == 0, page
            if page.parent == site:  # the pages that were written; the others are made alike
                assert chromium.barriers() == [], page


def test_a_method_appears_in_the_gallery_by_its_entry(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    entry = dataclasses.replace(jaxcam.METHODS["grad_cam"], title="One more", paper="Nobody, 1900")
    monkeypatch.setitem(jaxcam.METHODS, "one_more", entry)
    text = gallery.page(tmp_path, pictures=False)
    assert "## One more" in text and "--method one_more" in text and "Nobody, 1900" in text
