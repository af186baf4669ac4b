"""Finding out what kind of data set a folder holds, and reading it."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxcam.data import prepared, remote
from jaxcam.data.annotations import Annotation, Marked, Problem, read_boxes_csv, read_coco, read_xml
from jaxcam.data.class_names import class_names, names_of
from jaxcam.data.datasets import SUFFIXES, voc_ids
from jaxcam.data.masks import Painted
from jaxcam.data.samples import Dataset, Item, make_item, tally
from jaxcam.errors import JaxcamError, unknown


def load_dataset(
    path: str | os.PathLike, *, kind: str | None = None, split: str | None = None,
    boxes: str | os.PathLike | None = None, masks: str | os.PathLike | None = None,
    names: Mapping[str, str] | None = None, include_hard: bool = False,
) -> Dataset:  # fmt: skip
    """Reads a data set to evaluate explanations on. No picture is decoded.

    What is broken in single pictures or annotations is left out and told in `Dataset.problems`. Pictures in which
    nothing is marked are left out as well.

    Args:
      path: one of
        - an ImageNet-style folder: a folder for each class, or pictures alone whose classes come with their boxes.
          Boxes lie in `boxes.csv` (`image,wnid,x0,y0,x1,y1`) or in XML files by the pictures' names below
          `Annotations`; ILSVRC's own `Data/CLS-LOC` and `Annotations/CLS-LOC` are found. Of `train` and `val`,
          `val` is read;
        - a PASCAL VOC devkit (`JPEGImages`, `Annotations`, `ImageSets/Main`), or the `VOCdevkit` folder around one.
          Of its lists, the first of `test`, `val`, `trainval`, `train` is read;
        - COCO: the instances file, or a folder with it (alone or in `annotations`) and the pictures;
        - tar shards (see `jaxcam.data.remote.read_shards`), or any folder as a URL that fsspec reads, such as
          `s3://bucket/val`, with a folder for each class;
        - what other libraries prepared (see `jaxcam.data.prepared`): a folder of Hugging Face's `save_to_disk` or
          `hf://NAME`, a folder of TFDS's, ArrayRecord files. Of their splits `val`, `validation`, `test` or else the
          first is read.
      kind: a name of `SOURCES`; None to recognise it.
      split: another part than those named above.
      boxes: a CSV or XML folder elsewhere; for COCO, another instances file.
      masks: a folder with a PNG for each picture, of its name or below a folder of the class (`CLASS/NAME.png`): the
        object is where a pixel is not 0. VOC's SegmentationObject or SegmentationClass and COCO's outlines are found
        without.
      names: what to call the class of each folder; wnids of ImageNet's 1000 classes are known.
      include_hard: take objects that VOC marks as difficult and COCO as crowds for objects like others. They are
        left out otherwise, as in both benchmarks: a picture that holds nothing else of a class does not count for it.

    Raises:
      JaxcamError: there is no such folder, no picture in it, or its annotations are of the wrong kind.
    """
    if kind is not None and kind not in SOURCES:
        raise unknown("kind of data set", kind, SOURCES)
    place = os.fspath(path)
    if kind is None:
        kind = recognised(place)
    source = SOURCES[kind]
    if source.local:
        _check_there(pathlib.Path(place))
    if not source.marked and (boxes is not None or include_hard):
        raise JaxcamError(f"{place}: is read without boxes; those of a local folder are")
    data = source.read(place, split=split, **({"boxes": boxes, "include_hard": include_hard} if source.marked else {}))
    data = dataclasses.replace(data, classes=names_of(data.ids, names))
    return data if masks is None else _with_masks(data, pathlib.Path(masks))


def recognised(place: str) -> str:
    """The name in `SOURCES` of what a place, a path or URL, seems to be."""
    return next(name for name, source in reversed(SOURCES.items()) if source.recognises(place))


def _check_there(root: pathlib.Path) -> None:
    """Refuses what is no folder with anything in it, and no file of COCO's."""
    if not root.exists():
        raise JaxcamError(f"{root}: there is no such folder")
    if root.is_file() and root.suffix.lower() != ".json":
        raise JaxcamError(f"{root}: is a file; give the data set's folder, or COCO's instances file")
    try:
        if root.is_dir() and not any(root.iterdir()):
            raise JaxcamError(f"{root}: is empty")
    except OSError as e:
        raise JaxcamError(f"{root}: cannot be read ({e.strerror})") from None


def _with_masks(data: Dataset, folder: pathlib.Path) -> Dataset:
    """The same with the masks of a folder; a picture of several classes has them in folders of the classes alone."""
    if not folder.is_dir():
        raise JaxcamError(f"{folder}: there is no such folder of masks")
    items, problems = [], list(data.problems)
    for item in data.items:
        name = pathlib.PurePosixPath(item.name).with_suffix(".png")
        found = {}
        for label in item.labels:
            places = [folder / c / n for c in (data.ids[label], data.classes[label]) for n in (name, name.name)]
            places += [folder / name, folder / name.name] if len(item.labels) == 1 else []
            there = (p for p in places if os.path.isfile(p) and not _is_the_picture(p, item))
            if (file := next(there, None)) is not None:
                found[label] = (Painted(file),)
        if not found:
            problems.append(Problem("picture without mask", item.name, ""))
        items.append(dataclasses.replace(item, masks=found))
    if not any(item.masks for item in items):
        raise JaxcamError(f"{folder}: holds no mask; that of {data.items[0].name} would be a PNG of the same name")
    return dataclasses.replace(data, items=tuple(items), problems=tuple(problems))


def _is_the_picture(file: pathlib.Path, item: Item) -> bool:
    """Whether what lies where a mask would is the picture itself: a folder of pictures given for one of masks."""
    return item.picture is None and os.path.isfile(item.path) and os.path.samefile(file, item.path)


def _is_coco(root: pathlib.Path) -> bool:
    return root.is_file() or bool(_instances(root, None)) or any((root / "annotations").glob("*.json"))


def _devkit(root: pathlib.Path) -> pathlib.Path | None:
    """The devkit that a folder is, or is around."""
    for folder in (root, *sorted(root.glob("VOC2*")), *sorted(root.glob("VOCdevkit/VOC2*"))):
        if (folder / "JPEGImages").is_dir() and (folder / "Annotations").is_dir():
            return folder
    return None


def _voc(place: str, *, split: str | None, boxes: str | os.PathLike | None, include_hard: bool) -> Dataset:
    root = pathlib.Path(place)
    folder = _devkit(root)
    if folder is None:
        raise JaxcamError(f"{root}: is no VOC devkit, which has the folders JPEGImages, Annotations and ImageSets")
    lists = folder / "ImageSets" / "Main"
    there = {p.stem for p in lists.glob("*.txt") if "_" not in p.stem} | {
        p.stem.rsplit("_", 1)[1] for p in lists.glob("*_*.txt")
    }
    if split is not None and split not in there:
        raise unknown(f"list in {lists}", split, sorted(there))
    split = split or next((s for s in ("test", "val", "trainval", "train") if s in there), None)
    annotations = (folder / "Annotations").glob("*.xml")
    ids = voc_ids(lists, split) if split else sorted(p.stem for p in annotations)  # no lists: whatever is annotated
    if not ids:
        raise JaxcamError(f"{folder}: " + (f"the list {split} is empty" if split else "holds no annotation"))
    pictures = {p.stem: p for p in sorted((folder / "JPEGImages").iterdir())}
    annotated: dict[pathlib.Path, Annotation] = {}
    problems: list[Problem] = []
    for listed_as in ids:
        name = listed_as if listed_as in pictures else pathlib.PurePosixPath(listed_as).stem  # with path or ending
        file = folder / "Annotations" / f"{name}.xml"
        if name not in pictures:
            problems.append(Problem("annotation without picture", file.name, ""))
        elif not file.is_file():
            problems.append(Problem("picture without annotation", pictures[name].name, ""))
        else:
            try:
                annotated[pictures[name]] = _painted(read_xml(file, first_pixel=1), folder, name)
            except JaxcamError as e:
                problems.append(Problem("broken annotation", file.name, str(e).split(": ", 1)[1]))
    listed = {p.stem.rsplit("_", 1)[0] for p in lists.glob("*_*.txt")}
    classes = tuple(sorted(listed or {m.label for a in annotated.values() for m in a.objects}))
    return _assemble(folder, "voc", classes, annotated, include_hard, problems)


def _painted(annotation: Annotation, folder: pathlib.Path, name: str) -> Annotation:
    """The objects with their masks, where the devkit has some of the picture.

    SegmentationObject numbers the objects as the annotation does; SegmentationClass has the numbers of VOC's classes,
    difficult objects among them.
    """
    objects, classes = (folder / part / f"{name}.png" for part in ("SegmentationObject", "SegmentationClass"))
    marks = annotation.objects
    if os.path.isfile(objects) and not annotation.faults:
        return annotation._replace(objects=tuple(m._replace(mask=Painted(objects, i)) for i, m in enumerate(marks, 1)))
    if os.path.isfile(classes):
        numbers = {c: i for i, c in enumerate(class_names("voc"), 1)}
        return annotation._replace(
            objects=tuple(
                m._replace(mask=Painted(classes, numbers[m.label])) if m.label in numbers else m for m in marks
            )
        )
    return annotation


def _instances(root: pathlib.Path, split: str | None) -> list[pathlib.Path]:
    kinds = ("instances*.json", "_annotations.coco.json")  # the latter as Roboflow writes it, one in every part
    parts = [root / p for p in filter(None, (".", "annotations", split, "valid", "val", "test", "train"))]
    found = [f for p in dict.fromkeys(parts) for kind in kinds for f in sorted(p.glob(kind))]
    return [f for f in found if split is None or split in f.stem or f.parent.name == split]


def _coco(place: str, *, split: str | None, boxes: str | os.PathLike | None, include_hard: bool) -> Dataset:
    root, given = pathlib.Path(place), boxes
    folder = root if root.is_dir() else root.parent
    if given is not None or root.is_file():
        file = root if given is None else pathlib.Path(given)
    else:
        found = _instances(root, split)
        others = sorted(root.glob("*.json")) + sorted((root / "annotations").glob("*.json"))
        file = next((f for f in found if "val" in f.stem), next(iter(found or others), root / "instances.json"))
    content = read_coco(file)
    year = "" if file.name.startswith("_annotations") else file.stem.removeprefix("instances").strip("_")
    if file.parent.name not in ("annotations", folder.name) and folder in file.parents:
        folder = file.parent
    bases = [folder, folder.parent] if folder.name == "annotations" else [folder]
    places = [b / p for b in bases for p in filter(None, (year, f"images/{year}" if year else "", "images", "."))]
    sample = list(content.pictures)[:50]
    counts = [sum(os.path.isfile(place / _relative(name, place)) for name in sample) for place in places]
    home = places[counts.index(max(counts))].resolve()
    problems = list(content.problems)
    annotated: dict[pathlib.Path, Annotation] = {}
    for name, annotation in content.pictures.items():
        inside = _relative(name, home)
        if inside.is_absolute() or ".." in inside.parts:
            problems.append(Problem("picture outside of the data set", name, ""))
        elif os.path.isfile(home / inside):  # which an impossible name is not, without an error
            annotated[home / inside] = annotation
        else:
            problems.append(Problem("annotation without picture", name, ""))
    if not annotated:
        raise JaxcamError(f"{file}: none of its {len(content.pictures)} pictures lies in {_joined(places)}")
    if home != folder.resolve():
        strays = sorted({p.name for p in home.iterdir() if p.is_file()} - {p.name for p in annotated})
        problems += [Problem("picture without annotation", name, "") for name in strays]
    return _assemble(home, "coco", content.classes, annotated, include_hard, problems)


def _relative(name: str, home: pathlib.Path) -> pathlib.Path:
    """A file name of an annotation; one that Windows wrote, with backslashes, as this system spells it."""
    found = pathlib.Path(name)
    return found if os.path.isfile(home / found) else pathlib.Path(name.replace("\\", "/"))


def _joined(places: list[pathlib.Path]) -> str:
    return " or ".join(dict.fromkeys(str(p) for p in places))


def _assemble(
    base: pathlib.Path, kind: str, classes: tuple[str, ...], annotated: Mapping[pathlib.Path, Annotation],
    include_hard: bool, problems: list[Problem],
) -> Dataset:  # fmt: skip
    """A multi-label data set of the pictures in which something is marked."""
    index = {name: i for i, name in enumerate(classes)}
    items: list[Item] = []
    for path, annotation in annotated.items():
        name = path.relative_to(base).as_posix()
        item, found = make_item(name, path, annotation, index, include_hard=include_hard)
        problems += found
        if item.labels:
            items.append(item)
        else:
            why = "only difficult objects or crowds" if annotation.objects else "no object"
            problems.append(Problem("picture without label", name, why))
    if not items:
        raise JaxcamError("; ".join([f"{base}: holds no picture with a label", *tally(problems)[:2]]))
    items.sort(key=lambda item: item.name)
    return Dataset(base, kind, classes, classes, tuple(items), True, tuple(problems))


def _folder(place: str, *, split: str | None, boxes: str | os.PathLike | None, include_hard: bool) -> Dataset:
    """Reads an ImageNet-style folder: a folder for each class or none, with boxes in XML files or in a CSV.

    Where the pictures lie in class folders, the folder is the picture's one class, and a picture need not have boxes.
    Where they lie in no folder, the classes of their boxes are theirs.
    """
    root, given = pathlib.Path(place), None if boxes is None else pathlib.Path(boxes)
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
            name, path, annotation or Annotation(None, ()), index, include_hard=include_hard, label=label
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
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not os.path.isdir(path)


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
        if os.path.lexists(base / "boxes.csv"):
            return base / "boxes.csv"
        for inner in (f"Annotations/CLS-LOC/{part}", f"Annotations/{part}", "Annotations", "annotations"):
            if (base / inner).is_dir():
                return base / inner
    return None


class Source(NamedTuple):
    """A kind of data set.

    Attributes:
      recognises: whether a place, a path or URL, is one of this kind.
      read: the data set of a place; takes `split`, and `boxes` and `include_hard` where objects are marked.
      local: whether its pictures are files of a folder of this machine.
      marked: whether its boxes are read.
    """

    recognises: Callable[[str], bool]
    read: Callable[..., Dataset]
    local: bool = True
    marked: bool = True


#: Every kind; the last that recognises a place reads it, so that one of your own comes first.
SOURCES: dict[str, Source] = {
    "folder": Source(lambda place: True, _folder),
    "coco": Source(lambda place: _is_coco(pathlib.Path(place)), _coco),
    "voc": Source(lambda place: _devkit(pathlib.Path(place)) is not None, _voc),
    "url": Source(remote.is_url, remote.read_folder, local=False, marked=False),
    "tar": Source(remote.is_shards, remote.read_shards, local=False, marked=False),
    "array-record": Source(prepared.is_array_record, prepared.read_array_records, local=False, marked=False),
    "tfds": Source(prepared.is_tfds, prepared.read_tfds, local=False),
    "hf": Source(prepared.is_hf, prepared.read_hf, local=False),
}
