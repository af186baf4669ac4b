"""Data sets that other libraries prepared: Hugging Face's, TFDS's, and ArrayRecord files.

All of them give a record by its number. Which of its columns holds the picture, the classes and the boxes is told by
their types and usual names. A picture is fetched when it is decoded, and by its library never decoded; classes and
boxes are read at first, of TFDS and ArrayRecord with the records that they stand in. Sizes in bytes are part of what a
data set is known by, as those of files are.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcam.data.annotations import Annotation, Box, Marked, Problem, to_box
from jaxcam.data.examples import parse_example
from jaxcam.data.images import Picture
from jaxcam.data.remote import PARTS, RandomAccess, Record, is_url, numbered_classes, reading
from jaxcam.data.samples import Dataset, Item, make_item, tally
from jaxcam.errors import JaxcamError, unknown

_RECORDS = re.compile(r"\.array_?record(-\d+-of-\d+)?$")
#: What columns are called, the first that is there.
_LABEL = ("label", "labels")
_BOXES, _CLASS = ("bbox", "boxes"), ("label", "category", "labels", "categories", "category_id")
_HARD = ("is_difficult", "difficult", "is_crowd", "iscrowd")
#: What relative boxes are measured in: a power of two, by which no number loses a bit.
_WHOLE = 1 << 14


class Told(NamedTuple):
    """What a record says.

    Attributes:
      classes: its own, by name or by number in words.
      annotation: what is marked in it.
      size: of its picture, in bytes; -1 where it is not known.
    """

    classes: tuple[str, ...]
    annotation: Annotation
    size: int


def is_hf(place: str) -> bool:
    """Whether a place is a folder that Hugging Face's `save_to_disk` wrote, or a data set's name, `hf://NAME`."""
    folder = pathlib.Path(place)
    named = place.startswith("hf://") and not place.startswith("hf://datasets/")  # which is a URL of fsspec's
    return named or any((folder / own).is_file() for own in ("dataset_dict.json", "state.json"))


def read_hf(place: str, *, split: str | None, boxes: Any, include_hard: bool) -> Dataset:
    """A data set of Hugging Face's: a column of pictures, `label`, `objects` with boxes `(x, y, w, h)` in pixels.

    Raises:
      JaxcamError: the library is missing, or the data set, its split or such a column is.
    """
    datasets = _library("datasets", "hf", place)
    _own_boxes(place, boxes)
    name, _, config = place.removeprefix("hf://").partition(":")
    with reading(place):
        found = datasets.load_dataset(name, config or None) if is_url(place) else datasets.load_from_disk(place)
        if isinstance(found, dict):
            split = _split(split, list(found))
            found = found[split]
        elif split is not None:
            raise JaxcamError(f"{place}: has no splits")
        columns = _columns(place, found.features, datasets, "XYWH")
        plain = found.with_format(None)
        if isinstance(found.features[columns.picture], datasets.Image):
            plain = plain.cast_column(columns.picture, datasets.Image(decode=False))
        said = plain.select_columns(sorted({*columns.of_record} & set(found.features)))[:]
        rows = (dict(zip(said, values, strict=True)) for values in zip(*said.values(), strict=True))
        sizes = _stored_sizes(found.select_columns([columns.picture]).with_format("arrow"), columns.picture)
        told = (_told(row, columns, size) for row, size in zip(rows, sizes, strict=True))
        known = pathlib.Path(pathlib.PurePosixPath(name).name)
        where = place if is_url(place) else str(pathlib.Path(place).resolve())
        return _dataset("hf", where, split, known, plain, columns, told, include_hard)


def _stored_sizes(pictures: Any, name: str) -> Iterator[int]:
    """Bytes of each picture; of none is more read than where it begins."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in pictures.iter(batch_size=1000):
        column = batch[name]
        if pa.types.is_struct(column.type) and "bytes" in [field.name for field in column.type]:
            column = pc.struct_field(column, "bytes")
        known = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        lengths = pc.binary_length(column).to_pylist() if known else [None] * len(column)
        yield from (-1 if length is None else length for length in lengths)


def is_tfds(place: str) -> bool:
    """Whether a place is a folder that TFDS prepared."""
    return all((pathlib.Path(place) / own).is_file() for own in ("dataset_info.json", "features.json"))


def read_tfds(place: str, *, split: str | None, boxes: Any, include_hard: bool) -> Dataset:
    """A data set of TFDS's, prepared as ArrayRecord files: a feature `Image`, `label`, `objects` with boxes.

    Raises:
      JaxcamError: the library is missing; or the data set, its split or such a feature is; or it can be read in its
        order only, as TFRecord files.
    """
    tfds = _library("tensorflow_datasets", "tfds", place)
    _own_boxes(place, boxes)
    with reading(place):
        try:
            builder = tfds.builder_from_directory(place)
            known = list(builder.info.splits)
            if split is None or split.isidentifier():  # not a part of one, as in val[:10%]
                split = _split(split, known)
            columns = _columns(place, dict(builder.info.features.items()), tfds.features, "REL_YXYX")
            source = builder.as_data_source(split=split, decoders={columns.picture: tfds.decode.SkipDecoding()})
            records = (source[i] for i in range(len(source)))
            told = (_told(record, columns, len(record[columns.picture])) for record in records)
            where = str(pathlib.Path(place).resolve())
            name = pathlib.Path(builder.info.name)
            return _dataset("tfds", where, split, name, source, columns, told, include_hard)
        except NotImplementedError:
            raise JaxcamError(
                f"{place}: is stored as {builder.info.file_format.value}, of which no record is found by its number; "
                "prepare it with file_format='array_record'"
            ) from None


def is_array_record(place: str) -> bool:
    """Whether a place is an ArrayRecord file, their pattern, or a folder of them."""
    return not is_url(place) and bool(_array_records(place))


def _array_records(place: str) -> list[str]:
    path = pathlib.Path(place)
    found = path.iterdir() if path.is_dir() else path.parent.glob(path.name) if path.parent.is_dir() else ()
    return sorted(str(file) for file in found if _RECORDS.search(file.name) and file.is_file())


def read_array_records(place: str, *, split: str | None = None) -> Dataset:
    """ArrayRecord files of `tf.train.Example`s.

    `image` or `image/encoded` is the file of the picture, `label`, `image/class/synset` or `image/class/text` its class
    or classes: numbers of the network's classes, or names.

    Raises:
      JaxcamError: the library is missing, there are no such files, or they hold something else.
    """
    if split is not None:
        raise JaxcamError(f"{place}: of ArrayRecord files the part is chosen by their names, not by a split")
    library = _library("array_record.python.array_record_data_source", "array-record", place)
    files = _array_records(place)
    if not files:
        raise JaxcamError(f"{place}: there is no ArrayRecord file")
    with reading(place):
        source = _Examples(library.ArrayRecordDataSource(files))
        features = dict.fromkeys(source[0]) if len(source) else {}
        picture = _first(("image", "image/encoded"), features)
        label = _first((*_LABEL, "image/class/synset", "image/class/text"), features)
        if not picture or not label:
            raise _lacking(place, features, "class (label)" if picture else "picture (image)")
        columns = Columns(picture, label)
        told = (
            _told(record, columns, len(_opened(record.get(picture)) or b""))
            for record in (source[i] for i in range(len(source)))
        )
        where = str(pathlib.Path(place).resolve())
        return _dataset("array-record", where, None, pathlib.Path(place), source, columns, told, False)


class _Examples:
    """Records of bytes as what they say, by name."""

    def __init__(self, source: RandomAccess):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, list]:
        return parse_example(self._source[index])


class Columns(NamedTuple):
    """Where a record says what; "" for what it does not say.

    Attributes:
      picture: column.
      label: column of its class or classes.
      names: of the classes that are numbers there; None where they have none.
      objects: column of what is marked, which has the fields that follow; the record itself has them where it is none.
      box: field.
      order: of its numbers: XYXY, YXYX or XYWH, after REL_ where they are shares of the picture.
      kind: field of the class.
      kinds: names of these classes.
      hard: field that says whether it is difficult, or a crowd.
      size: columns of width and height.
    """

    picture: str
    label: str = ""
    names: Sequence[str] | None = None
    objects: str = ""
    box: str = ""
    order: str = ""
    kind: str = ""
    kinds: Sequence[str] | None = None
    hard: str = ""
    size: tuple[str, ...] = ()

    @property
    def of_record(self) -> list[str]:
        """Columns that are read for all but the picture."""
        return [c for c in (self.label, self.objects or self.box, *self.size) if c]


def _columns(place: str, features: Mapping[str, Any], types: Any, order: str) -> Columns:
    """The columns by their names and their types, which both libraries call alike."""
    pictures = [k for k, feature in features.items() if isinstance(feature, types.Image)]
    picture = _first(("image",), features, pictures[:1])
    if not picture:
        raise _lacking(place, features, "picture (image)")
    fields = _fields(features.get("objects"))
    box, kind = _first(_BOXES, fields), _first(_CLASS, fields, _of_classes(fields, types))
    label = _first(_LABEL, features, _of_classes(features, types))
    if not label and not (box and kind):
        raise _lacking(place, features, "class (label, or objects with bbox and label)")
    objects = "objects" if box else ""
    if not box:  # one for the whole picture
        box, kind, fields = _first(_BOXES, features), "", dict(features)
    if box:  # TFDS tells; it may say that nobody knows
        told = getattr(fields[box], "bbox_format", order)
        order = getattr(told, "value", told) or ""
    size = ("width", "height") if {"width", "height"} <= set(features) else ()
    return Columns(
        picture, label, _names(features.get(label)), objects, box, order, kind, _names(fields.get(kind)),
        _first(_HARD, fields) if objects else "", size,
    )  # fmt: skip


def _first(names: Sequence[str], there: Collection[str], alike: Sequence[str] = ()) -> str:
    """The first of the names that is there, or else the only column of the type."""
    return next((name for name in names if name in there), alike[0] if len(alike) == 1 else "")


def _inner(feature: Any) -> Any:
    """What a list is of."""
    return getattr(feature, "feature", feature)


def _fields(feature: Any) -> dict[str, Any]:
    """The fields of objects: of a list of them, or lists of each."""
    inside = _inner(feature)
    return dict(inside.items()) if hasattr(inside, "items") else {}


def _of_classes(features: Mapping[str, Any], types: Any) -> list[str]:
    return [k for k, feature in features.items() if isinstance(_inner(feature), types.ClassLabel)]


def _names(feature: Any) -> Sequence[str] | None:
    return getattr(_inner(feature), "names", None)


def _told(record: Mapping[str, Any], columns: Columns, size: int) -> Told:
    """What a record says beside its picture."""
    own = _words(record.get(columns.label) if columns.label else None, columns.names)
    objects: list[Marked] = []
    faults: list[str] = []
    shared = columns.order.startswith("REL_")
    measured: tuple[int, int] | None = (_WHOLE, _WHOLE) if shared else None
    if columns.size and not shared:
        measured = int(record[columns.size[0]]), int(record[columns.size[1]])
    for one in _objects(record, columns):
        label = next(iter(_words(one.get(columns.kind), columns.kinds)), None) if columns.kind else None
        if label is None and len(own) == 1:
            label = own[0]
        try:
            box = _box(one.get(columns.box), columns.order)
        except ValueError as e:
            faults.append(str(e))
            box = None
        if label is not None:
            objects.append(Marked(label, box, bool(columns.hard and one.get(columns.hard))))
    return Told(own, Annotation(measured, tuple(objects), tuple(faults)), size)


def _objects(record: Mapping[str, Any], columns: Columns) -> Iterator[Mapping[str, Any]]:
    """Each object, whether they are a list or lists of what each is."""
    if not columns.objects:
        if columns.box and record.get(columns.box) is not None:
            yield record
        return
    objects = record.get(columns.objects)
    if isinstance(objects, Mapping):
        fields = {k: objects[k] for k in (columns.box, columns.kind, columns.hard) if k in objects}
        yield from (dict(zip(fields, one, strict=True)) for one in zip(*fields.values(), strict=True))
    else:
        yield from () if objects is None else objects


def _box(values: Any, order: str) -> Box:
    """A box by its corners in pixels, or in `_WHOLE`ths of the picture.

    Raises:
      ValueError: it is none, or the order of its numbers is not known.
    """
    if not order:
        raise ValueError("the data set does not say what its boxes' numbers mean")
    numbers = np.asarray(values, np.float64).ravel()
    if len(numbers) == 4:
        numbers = numbers * (_WHOLE if order.startswith("REL_") else 1)
        numbers = numbers[[1, 0, 3, 2]] if order.endswith("YXYX") else numbers
        numbers = np.concatenate([numbers[:2], numbers[:2] + numbers[2:]]) if order.endswith("WH") else numbers
    return to_box(numbers.tolist(), str(values))


def _words(value: Any, names: Sequence[str] | None) -> tuple[str, ...]:
    """Classes as text; none of what is no class, as the -1 of a test set."""
    several = value if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) else [value]
    found = []
    for one in several:
        if isinstance(one, bytes):
            one = one.decode("utf-8", "replace")
        if isinstance(one, int | np.integer) and not isinstance(one, bool):
            number = int(one)
            one = (names[number] if names and number < len(names) else str(number)) if number >= 0 else None
        if isinstance(one, str) and one:
            found.append(one)
    return tuple(dict.fromkeys(found))


def _opened(value: Any) -> Any:
    """The picture of a column: bytes, or the path beside them, or what `to_picture` takes otherwise."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    return value[0] if isinstance(value, list) and len(value) == 1 else value


@dataclasses.dataclass(frozen=True)
class _Picture:
    """The picture of a record; not a function inside of one, which no other process could be given."""

    column: str

    def __call__(self, record: Mapping[str, Any]) -> Picture:
        found = _opened(record[self.column])
        if found is None:
            raise JaxcamError("the record holds no picture")
        return found


def _dataset(
    kind: str, place: str, split: str | None, name: pathlib.Path, source: RandomAccess, columns: Columns,
    told: Iterable[Told], include_hard: bool,
) -> Dataset:  # fmt: skip
    """The records in which there is a class, by their numbers."""
    said = list(told)
    classes, index = numbered_classes(
        {*(c for one in said for c in one.classes), *(m.label for one in said for m in one.annotation.objects)}
    )
    if names := columns.names or columns.kinds:
        classes, index = tuple(names), {c: i for i, c in enumerate(names)}
    picture = _Picture(columns.picture)
    items: list[Item] = []
    problems: list[Problem] = []
    for i, one in enumerate(said):
        called = f"{i:06}"
        marked = one.annotation
        if not columns.kind and len(one.classes) != 1:  # boxes of whichever
            marked = marked._replace(objects=tuple(Marked(c, None) for c in one.classes))
        label = one.classes[0] if len(one.classes) == 1 else None
        path = pathlib.Path(f"record {i}")
        item, found = make_item(called, path, marked, index, include_hard=include_hard, label=label)
        problems += found
        if item.labels:
            items.append(dataclasses.replace(item, picture=Record(source, i, picture, one.size)))
        else:
            problems.append(Problem("picture without class", called, ""))
    if not items:
        raise JaxcamError("; ".join([f"{place}: holds no picture with a class", *tally(problems)[:2]]))
    several = not columns.label or any(len(item.labels) > 1 for item in items)
    return Dataset(name, kind, classes, classes, tuple(items), several, tuple(problems), url=place, split=split)


def _split(asked: str | None, known: Sequence[str]) -> str:
    """The part that was asked for, or the first usual one that is there."""
    if asked is not None and asked not in known:
        raise unknown("split", asked, known)
    return asked or next((part for part in PARTS if part in known), known[0])


def _lacking(place: str, columns: Collection[str], what: str) -> JaxcamError:
    return JaxcamError(f"{place}: has no column of the {what}; its columns are {', '.join(columns) or 'none'}")


def _own_boxes(place: str, boxes: Any) -> None:
    if boxes is not None:
        raise JaxcamError(f"{place}: is read with the boxes of its own records; those elsewhere are for folders")


def _library(name: str, extra: str, place: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise JaxcamError(f"{place}: needs {name.split('.')[0]}: pip install 'jaxcam-xai[{extra}]'") from None
