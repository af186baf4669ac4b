"""ImageNet-style folders: a folder for each class or none, with boxes in XML files or in a CSV."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping

from jaxcam.data.annotations import Annotation, Marked, Problem, read_boxes_csv, read_xml
from jaxcam.data.datasets import SUFFIXES
from jaxcam.data.samples import Dataset, Item, make_item
from jaxcam.errors import JaxcamError


def image_folder_items(root: pathlib.Path, split: str | None, given: pathlib.Path | None, hard: bool) -> Dataset:
    """Reads such a folder; see `jaxcam.data.evaluation.load_dataset`, whose arguments these are.

    Where the pictures lie in class folders, the folder is the picture's one class, and a picture need not have boxes.
    Where they lie in no folder, the classes of their boxes are theirs.
    """
    home = _pictures_folder(root, split)
    skipped = {"Annotations", "annotations"}
    folders = sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in skipped)
    problems: list[Problem] = []
    pictures: dict[pathlib.Path, str | None] = {}
    for folder in folders:
        found = sorted(p for p in folder.rglob("*") if _is_picture(p))
        pictures |= dict.fromkeys(found, folder.name)
        if not found:
            problems.append(Problem("class folder without pictures", folder.name, ""))
    flat = not pictures
    if flat:
        pictures = dict.fromkeys(sorted(p for p in home.iterdir() if _is_picture(p)))
    if not pictures:
        raise JaxcamError(f"{home}: holds no pictures")
    marks = _Marks(root, home, given)
    annotated = {p: marks.of(p, p.relative_to(home).as_posix()) for p in pictures}
    if flat and marks.source is None:
        raise JaxcamError(f"{home}: holds pictures without class folders, and no Annotations or boxes.csv tell classes")
    if flat:
        classes = sorted({m.label for a in annotated.values() if a for m in a.objects})
    else:
        classes = sorted({folder for folder in pictures.values() if folder is not None})
    index = {name: i for i, name in enumerate(classes)}
    items: list[Item] = []
    for path, label in pictures.items():
        name = path.relative_to(home).as_posix()
        annotation = annotated[path]
        if annotation is None and marks.source is not None and path.stem not in marks.broken:
            problems.append(Problem("picture without annotation", name, ""))
        item, found_problems = make_item(
            name, path, annotation or Annotation(None, ()), index, include_hard=hard, label=label
        )
        problems += found_problems
        if item.labels:
            items.append(item)
        elif annotation is not None:
            problems.append(Problem("picture without label", name, "nothing is marked in it"))
    problems += marks.problems()
    if not items:
        raise JaxcamError(f"{home}: none of its {len(pictures)} pictures has a class in {marks.source}")
    items.sort(key=lambda item: item.name)
    several = flat and any(len(item.labels) > 1 for item in items)
    return Dataset(home, "folder", tuple(classes), tuple(classes), tuple(items), several, tuple(problems))


def _is_picture(path: pathlib.Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pictures_folder(root: pathlib.Path, split: str | None) -> pathlib.Path:
    """Where the pictures of a part lie below `root`."""
    bases = [root / "Data" / "CLS-LOC", root]
    wanted = [split] if split is not None else ["val", "validation", "test"]
    for base in bases:
        for part in wanted:
            if (base / part).is_dir():
                return base / part
    if split is not None:
        raise JaxcamError(f"{root}: has no folder {split!r}")
    return bases[0] if bases[0].is_dir() else root


class _Marks:
    """The boxes of a folder, by picture; which of them were asked for tells which belong to none."""

    def __init__(self, root: pathlib.Path, home: pathlib.Path, given: pathlib.Path | None):
        self.source = given or _find_marks(root, home)
        self.broken: dict[str, Problem] = {}
        self._asked: set[str] = set()
        self._rows: Mapping[str, list[Marked]] = {}
        self._files: dict[str, pathlib.Path] = {}
        self._problems: list[Problem] = []
        if self.source is None:
            return
        if self.source.is_dir():
            self._files = {p.stem: p for p in sorted(self.source.rglob("*.xml"))}
            if not self._files:
                raise JaxcamError(f"{self.source}: holds no XML annotation")
            return
        rows, self._problems = read_boxes_csv(self.source)
        gathered = collections.defaultdict(list)
        for image, mark in rows:
            gathered[pathlib.PurePosixPath(image.replace("\\", "/")).as_posix()].append(mark)
        self._rows = dict(gathered)

    def of(self, path: pathlib.Path, name: str) -> Annotation | None:
        """What is marked in a picture; None where nothing tells."""
        if self._files:
            return self._from_xml(path.stem)
        beside = [name, path.name]
        if self.source is not None and self.source.resolve().parent in path.resolve().parents:
            beside.insert(0, path.resolve().relative_to(self.source.resolve().parent).as_posix())
        key = next((k for k in beside if k in self._rows), None)
        if key is None:
            return None
        self._asked.add(key)
        return Annotation(None, tuple(self._rows[key]))

    def _from_xml(self, stem: str) -> Annotation | None:
        file = self._files.get(stem)
        if file is None:
            return None
        self._asked.add(stem)
        try:
            return read_xml(file)
        except JaxcamError as e:
            self.broken[stem] = Problem("broken annotation", file.name, str(e).split(": ", 1)[1])
            return None

    def problems(self) -> list[Problem]:
        """Broken annotations, broken rows, and annotations that no picture asked for."""
        left = [name for name in (*self._rows, *self._files) if name not in self._asked]
        strays = [Problem("annotation without picture", name, "") for name in left]
        return [*self._problems, *self.broken.values(), *strays]


def _find_marks(root: pathlib.Path, home: pathlib.Path) -> pathlib.Path | None:
    part = home.name
    for base in dict.fromkeys((home, home.parent, root)):  # never above what was asked for
        if base != root and root not in base.parents:
            continue
        if (base / "boxes.csv").is_file():
            return base / "boxes.csv"
        for inner in (f"Annotations/CLS-LOC/{part}", f"Annotations/{part}", "Annotations", "annotations"):
            if (base / inner).is_dir():
                return base / inner
    return None
