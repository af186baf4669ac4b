"""The site: Sphinx over these pages, and over those that are made from the program itself before it reads them.

`make docs` builds it. With `-t quick` nothing is computed: notebooks are not run, and the gallery has no pictures.
"""

import importlib.util
import pathlib
import re
import shutil
import sys

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS))

import gallery  # noqa: E402
import reference  # noqa: E402

import jaxcam  # noqa: E402

project, author = "jaxcam", "The jaxcam authors"
version = release = jaxcam.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.githubpages"]
exclude_patterns = ["_build"]
nitpicky = True
# Names of other libraries have no page here. One of ours that leads nowhere is a mistake.
nitpick_ignore_regex = [(r"py:.*", r"(?s)(?!jaxcam\.[\w.]+$).*")]

html_theme = "furo"
html_title = f"jaxcam {version}"
html_static_path, html_css_files, html_js_files = ["_static"], ["site.css"], ["site.js"]
html_show_copyright = False

highlight_language = "none"
myst_heading_anchors = 4

quick = tags.has("quick")  # type: ignore[name-defined]  # noqa: F821 - Sphinx's own
nb_execution_mode = "off" if quick else "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Shown by their names: written out they are longer than all the rest of a signature.
autodoc_type_aliases = {
    name: name for name in ("Call", "HeadFn", "NetworkFn", "Params", "Picture", "Target", "Targets")
}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
napoleon_use_rtype = False


def make_pages(app, config):
    """Writes what is made from declarations and docstrings, and fetches the notebooks, beside the pages."""
    for name, text in reference.pages().items():
        _write(DOCS / "api" / f"{name}.md", text)
    _write(DOCS / "gallery" / "index.md", gallery.page(DOCS / "gallery", pictures=not quick))
    (DOCS / "notebooks").mkdir(exist_ok=True)
    for notebook in (DOCS.parent / "examples").glob("*.ipynb"):
        shutil.copyfile(notebook, DOCS / "notebooks" / notebook.name)


def _write(path, text):
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def end_code(app, what, name, obj, options, lines):
    """Says where code ends that a letter follows, as in `PIL.Image`s, which reStructuredText would not see."""
    text = re.sub(r"(``[^`]+``|`[^`]+`)(\w?)", lambda m: f"{m[1]}\\ {m[2]}" if m[2] else m[1], "\n".join(lines))
    lines[:] = text.split("\n")


def name_aliases(app, what, name, obj, options, signature, returns):
    """Types that are shown by their names, without what Sphinx puts around these inside of other types."""
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in (signature, returns))


def find_public(app, env, node, contnode):
    """A link to where a name is documented, from the name of where it lives; modules are left as they are written."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("jaxcam."):
        return None
    home, _, name = target.rpartition(".")
    for candidate in (f"jaxcam.{name}", *(f"{home.rsplit('.', depth)[0]}.{name}" for depth in (1, 2))):
        found = env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", candidate, node, contnode)
        if found is not None:
            return found
    try:
        exists = hasattr(importlib.import_module(home), name) or importlib.util.find_spec(target)
    except ImportError:
        exists = False
    return contnode if exists else None


def write_llms(app, exception):
    """`llms.txt` (llmstxt.org): the pages by group, each with its first paragraph; written ones as Markdown."""
    if exception or app.builder.format != "html":
        return
    out, lines = pathlib.Path(app.outdir), ["# jaxcam", ""]
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    lines += [f"> {_first_paragraph(app.env, 'index')}", ""]
    for caption, body in re.findall(r"^```\{toctree\}\n:caption: (.*?)\n(.*?)^```$", index, flags=re.M | re.S):
        lines += [f"## {caption}", ""]
        for name in filter(None, (line.strip() for line in body.splitlines() if not line.startswith(":"))):
            written = "/" not in name  # the others are made, of directives that only Sphinx understands
            if written:
                shutil.copyfile(DOCS / f"{name}.md", out / f"{name}.md")
            address = f"{name}.md" if written else f"{name}.html"
            lines.append(f"- [{app.env.titles[name].astext()}]({address}): {_first_paragraph(app.env, name)}")
        lines.append("")
    (out / "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def _first_paragraph(env, name):
    import docutils.nodes

    paragraph = next(env.get_doctree(name).findall(docutils.nodes.paragraph))
    return " ".join(paragraph.astext().split())


def level_captions(app, page, template, context, doctree):
    """Sphinx calls the captions of the navigation headings, without the level that screen readers ask for."""
    for name in ("furo_navigation_tree", "body"):
        if name in context:
            context[name] = context[name].replace('role="heading">', 'role="heading" aria-level="2">')


def setup(app):
    """What Sphinx calls."""
    app.connect("config-inited", make_pages)
    app.connect("autodoc-process-docstring", end_code, priority=100)  # before Napoleon's
    app.connect("autodoc-process-signature", name_aliases)
    app.connect("missing-reference", find_public)
    app.connect("html-page-context", level_captions, priority=900)  # after the theme's
    app.connect("build-finished", write_llms)
