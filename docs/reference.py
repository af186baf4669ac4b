"""The API reference as pages: which names there are is read from the program, what they do from the docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jaxcam
from jaxcam.metrics import DIRECTIONS, METRICS
from jaxcam.transforms import coalition, deeplift, lrp
from jaxcam.transforms.primitives import KINDS, VOCABULARY

#: The rooms of the public names, in reading order; one that is not here comes last, under its own name.
ROOMS = {
    "explanation": "Explaining pictures",
    "methods": "Methods",
    "cutting": "Cutting networks",
    "models": "Networks",
    "zoo": "Loading and saving",
    "data": "Preprocessing",
    "metrics": "Metrics",
    "transforms": "Transformations of programs",
    "errors": "Errors",
}
#: Modules with a page of their own.
MODULES = (
    "jaxcam.cutting", "jaxcam.metrics", "jaxcam.shapley", "jaxcam.transforms", "jaxcam.transforms.deeplift",
    "jaxcam.transforms.lrp", "jaxcam.transforms.coalition", "jaxcam.transforms.primitives",
)  # fmt: skip
TRANSFORMATIONS = {"DeepLIFT": deeplift.RULES, "LRP": lrp.RULES, "coalitions": coalition.RULES}


def pages() -> dict[str, str]:
    """Markdown by the name of the page."""
    return {
        "jaxcam": public_names(),
        **{module.removeprefix("jaxcam."): module_page(module) for module in MODULES},
        "metrics-table": metrics_table(),
        "primitives-table": primitives_table(),
    }


def public_names() -> str:
    """`jaxcam.*`, by the room that each name comes from."""
    by_room: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name, home in jaxcam._HOME.items():
        by_room.setdefault(home.split(".")[1], []).append(name)
    lines = ["# jaxcam", "", "The names of `import jaxcam`. Each is imported when it is first used.", ""]
    lines += directive("py:module", "jaxcam", ())
    for room, names in by_room.items():
        if names:
            lines += [f"## {ROOMS.get(room, room)}", ""]
            for name in names:
                lines += documented("jaxcam", name, getattr(jaxcam, name))
    return "\n".join(lines)


def module_page(path: str) -> str:
    """A module's public names; those that `jaxcam` has too are described there."""
    module = importlib.import_module(path)
    lines = [f"# {path}", "", *directive("eval-rst", "", [f".. automodule:: {path}"])]
    names = getattr(module, "__all__", None) or [
        n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", path) == path
        and not inspect.ismodule(v)
    ]  # fmt: skip
    also = [n for n in names if n in jaxcam._HOME and getattr(jaxcam, n) is getattr(module, n)]
    if also:
        links = ", ".join(f"{{py:obj}}`jaxcam.{n}`" for n in also)
        lines += [f"Described among the names of `jaxcam`: {links}.", ""]
    for name in names:
        if name not in also:
            lines += [f"## {name}", "", *documented(path, name, getattr(module, name))]
    return "\n".join(lines)


def documented(module: str, name: str, value: Any) -> list[str]:
    """One name with what its docstring says; of a module, its functions; of a table of entries, which there are."""
    path = f"{module}.{name}"
    if inspect.ismodule(value):
        lines = directive("py:module", path, ()) + [(value.__doc__ or "").partition("\n\n")[0], ""]
        for key, function in inspect.getmembers(value, inspect.isfunction):
            if function.__module__ == value.__name__ and not key.startswith("_"):
                lines += documented(path, key, function)
        return lines
    if inspect.isclass(value) and value.__module__.startswith("jaxcam"):
        fields = ", ".join(getattr(value, "_fields", ()))
        options = [":members:", *([f":exclude-members: {fields}"] if fields else [])]
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return directive("eval-rst", "", [f".. {kind}:: {path}", *(f"   {o}" for o in options)])
    if inspect.isroutine(value):
        return directive("eval-rst", "", [f".. autofunction:: {path}"])
    return directive("py:data", name, [f":module: {module}", "", entries(value)])


def entries(value: Any) -> str:
    """What a table or a list holds, in a sentence."""
    if isinstance(value, Mapping):
        return f"{len(value)} entries: " + ", ".join(f"``{key}``" for key in value) + "."
    if isinstance(value, tuple | list | set | frozenset):
        return "One of " + ", ".join(f"``{item}``" for item in value) + "."
    return f"A type: ``{str(value).replace('typing.', '').replace('collections.abc.', '')}``."


def directive(name: str, argument: str, body: Any) -> list[str]:
    """A directive of MyST."""
    return [f"```{{{name}}}{f' {argument}' if argument else ''}", *body, "```", ""]


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """A table of Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def metrics_table() -> str:
    """The entries of `METRICS`."""
    rows = (
        (f"`{name}`", m.title, m.short, m.kind, DIRECTIONS[m.better][1], ", ".join(f"`{n}`" for n in m.needs))
        for name, m in METRICS.items()
    )
    lines = ["# Metrics by name", "", "The entries of `jaxcam.METRICS`: what `jaxcam evaluate --metrics` takes.", ""]
    return "\n".join([*lines, *table(("name", "title", "in papers", "kind", "best", "needs"), rows), ""])


def primitives_table() -> str:
    """The vocabulary of primitives, and which transformations have a rule for each."""
    rows = (
        (f"`{name}`", p.kind, *("yes" if name in rules else "" for rules in TRANSFORMATIONS.values()), p.why)
        for name, p in sorted(VOCABULARY.items())
    )
    lines = [
        "# Primitives and their rules", "",
        "What `jaxcam.transforms.primitives` says of each primitive of JAX, and which transformations have a rule for",
        "it. One that is not here, or has no rule, is an error that names it and its line, never a silently wrong map;",
        "`register` of each transformation gives it a rule of yours.", "",
        *table(("kind", "what it is"), iter(KINDS.items())), "",
        *table(("primitive", "kind", *TRANSFORMATIONS, "why none"), rows), "",
    ]  # fmt: skip
    return "\n".join(lines)
