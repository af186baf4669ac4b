"""Reading annotations: PASCAL VOC's and ILSVRC's XML, COCO's instances, and boxes in a CSV file."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcam.data.masks import Mask, Outlined, polygons
from jaxcam.errors import JaxcamError
from jaxcam.files import MOST_LISTED, read_file

Box = tuple[float, float, float, float]
#: How far boxes in shares of the picture may reach beyond it.
_BEYOND = 0.5


class Marked(NamedTuple):
    """One object of a picture.

    Attributes:
      label: its class as the file calls it.
      box: `(x0, y0, x1, y1)` in pixels, where 0 is the left or upper edge of the picture; None where there is none.
      hard: whether VOC calls it difficult, or COCO a crowd.
      mask: which pixels it covers, where that is marked.
    """

    label: str
    box: Box | None
    hard: bool = False
    mask: Mask | None = None


class Problem(NamedTuple):
    """Something in a data set that was left out.

    Attributes:
      kind: what is wrong, the same words for every such case.
      name: of the picture or the file.
      why: the particulars.
    """

    kind: str
    name: str
    why: str


class Annotation(NamedTuple):
    """What an annotation says of a picture.

    Attributes:
      size: `(w, h)` that the boxes are measured in; None where the file does not tell.
      objects: in the file's order.
      faults: of each object whose box was left out, why.
    """

    size: tuple[int, int] | None
    objects: tuple[Marked, ...]
    faults: tuple[str, ...] = ()


class SharesError(ValueError):
    """A box in shares of the picture and not in pixels."""

    def __init__(self, spelled: str):
        super().__init__(
            f"the box {spelled} lies between 0 and 1: shares of the picture, it seems; multiply x by its width "
            "and y by its height, as boxes are in pixels"
        )


#: The whole picture in shares, which is the first pixel in a file of pixels: the other boxes of a file tell which.
_WHOLE = (0.0, 0.0, 1.0, 1.0)


def to_box(values: Sequence[Any], spelled: str | None = None, *, first_pixel: int = 0) -> Box:
    """Four numbers as a box.

    Args:
      values: the numbers.
      spelled: as the file has them, for messages.
      first_pixel: of the numbers of pixels where they are none of edges; see `read_xml`.

    Raises:
      ValueError: they are no numbers, not finite, describe no area, or are shares of the picture and not pixels; the
        message says which.
    """
    spelled = spelled or _spelled(values)
    try:
        x0, y0, x1, y1 = (float(v) for v in values)
    except (TypeError, ValueError):
        raise ValueError(f"the box {spelled} is not four numbers") from None
    if not all(math.isfinite(v) for v in (x0, y0, x1, y1)):
        raise ValueError(f"the box {spelled} holds NaN or infinite values")
    if x1 <= x0 - first_pixel or y1 <= y0 - first_pixel:
        raise ValueError(f"the box {spelled} is inverted or empty")
    near = min(x0, y0) >= -_BEYOND and max(x1, y1) <= 1 + _BEYOND  # shares may lie a little beyond the picture
    if near and any(v % 1 for v in (x0, y0, x1, y1)):
        raise SharesError(spelled)
    return x0 - first_pixel, y0 - first_pixel, x1, y1


def _truth(value: Any) -> bool:
    """A truth value, which some tools write as text.

    Raises:
      ValueError: it is none.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text not in ("0", "1", "false", "true", "no", "yes", "", "none", "null", "0.0", "1.0"):
            raise ValueError(f"is {value!r}, neither 0 nor 1")
        return text in ("1", "true", "yes", "1.0")
    return bool(value)


def _spelled(values: Any) -> str:
    if not isinstance(values, list | tuple):
        return repr(values)
    return "(" + ", ".join(str(v) for v in values) + ")"


def read_xml(file: pathlib.Path, *, first_pixel: int = 0) -> Annotation:
    """Reads an XML annotation as PASCAL VOC and ILSVRC write it. A broken box is a fault, and its object has none.

    Args:
      file: the annotation.
      first_pixel: 1 for VOC, which numbers pixels from 1 and means the box's first and last pixel; 0 for ILSVRC,
        whose numbers are taken for edges.

    Raises:
      JaxcamError: the file cannot be read or is not XML.
    """
    try:
        tree = ET.fromstring(read_file(file, MOST_LISTED))
    except JaxcamError:
        raise
    except (ET.ParseError, ValueError, LookupError) as e:  # the latter two: an encoding that is none
        raise JaxcamError(f"{file}: is not an XML annotation ({e})") from None
    objects: list[Marked] = []
    faults: list[str] = []
    shares = False
    for element in tree.iter("object"):
        label = (element.findtext("name") or "").strip()
        if not label:
            faults.append("an object has no name")
            continue
        hard = False
        try:
            hard = _truth(element.findtext("difficult") or "0")
        except ValueError as e:
            faults.append(f"{label}: difficult {e}")
        boxes: list[Box | None] = []
        if element.find("bndbox") is None and any(len(part) for part in element):
            faults.append(f"{label}: has an outline and no bndbox")
        for bounds in element.findall("bndbox"):  # several where a tool groups objects of a kind
            try:
                corners = [bounds.findtext(k) for k in ("xmin", "ymin", "xmax", "ymax")]
                boxes.append(to_box(corners, first_pixel=first_pixel))
            except ValueError as e:
                shares |= isinstance(e, SharesError)
                faults.append(f"{label}: {e}")
        objects += [Marked(label, box, hard) for box in boxes or [None]]
    if shares:
        first = (-first_pixel, -first_pixel, 1, 1)
        faults += [f"{o.label}: {SharesError('(0, 0, 1, 1)')}" for o in objects if o.box == first]
        objects = [o._replace(box=None) if o.box == first else o for o in objects]
    return Annotation(_size(tree), tuple(objects), tuple(faults))


def _size(tree: ET.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(tree.findtext(f"size/{k}") or 0)) for k in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return _possible(width, height)  # ILSVRC has some of 0 x 0


def _possible(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if 0 < width < 2**31 and 0 < height < 2**31 else None


def read_boxes_csv(file: pathlib.Path) -> tuple[list[tuple[str, Marked]], list[Problem]]:
    """Reads boxes from a CSV file with the columns `image,wnid,x0,y0,x1,y1` in any order, others beside them.

    `label` and `class` do for `wnid`; semicolons and tabs for commas. Coordinates are edges in pixels of the picture.

    Returns:
      `(image, object)` of each row, and a problem for each row whose box was left out.

    Raises:
      JaxcamError: the file cannot be read, lacks a column, or holds not one good row.
    """
    try:
        text = read_file(file).decode("utf-8-sig")
        first = text.partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
        header = [h.strip().lower() for h in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as e:
        raise JaxcamError(f"{file}: cannot be read ({e})") from None
    label = next((c for c in ("wnid", "label", "class") if c in header), "wnid")
    missing = [c for c in ("image", label, "x0", "y0", "x1", "y1") if c not in header]
    if missing:
        raise JaxcamError(
            f"{file}: lacks the column {' and '.join(missing)}; boxes are image,wnid,x0,y0,x1,y1, with that first line"
        )
    good, problems, whole, shares = [], [], [], False
    for line, raw in rows:
        row = {k: v.strip() if isinstance(v, str) else v for k, v in raw.items()}
        try:
            if not row["image"] or not row[label]:
                raise ValueError("the row names no image or no class")
            good.append((row["image"], Marked(row[label], to_box([row[k] for k in ("x0", "y0", "x1", "y1")]))))
            if good[-1][1].box == _WHOLE:
                whole.append(
                    Problem("bad box", row["image"], f"{file.name}, line {line}: {SharesError('(0, 0, 1, 1)')}")
                )
        except ValueError as e:
            shares |= isinstance(e, SharesError)
            problems.append(Problem("bad box", row["image"] or file.name, f"{file.name}, line {line}: {e}"))
    if shares:
        good, problems = [(name, mark) for name, mark in good if mark.box != _WHOLE], problems + whole
    if not good:
        raise JaxcamError(f"{file}: holds no box" + (f"; {problems[0].why}" if problems else ""))
    return good, problems


class Instances(NamedTuple):
    """A COCO instances file.

    Attributes:
      classes: names in the order of their ids.
      pictures: of each file name, what is marked in it; in the order of the picture ids.
      problems: annotations that were left out.
    """

    classes: tuple[str, ...]
    pictures: dict[str, Annotation]
    problems: list[Problem]


def read_coco(file: pathlib.Path) -> Instances:
    """Reads a COCO instances file.

    Raises:
      JaxcamError: it is not JSON, or another kind of file, such as one of captions or of results.
    """
    try:
        content = json.loads(read_file(file))
    except JaxcamError:
        raise
    except (ValueError, RecursionError) as e:
        raise JaxcamError(f"{file}: is not JSON, or is cut off ({e})") from None
    wanted = "an instances file of COCO has images, annotations and categories"
    if not isinstance(content, dict):
        what = "a list, such as a results file" if isinstance(content, list) else "no table"
        raise JaxcamError(f"{file}: is {what}; {wanted}")
    images, marks, kinds = (content.get(k) for k in ("images", "annotations", "categories"))
    if isinstance(marks, list) and marks and isinstance(marks[0], dict) and "caption" in marks[0]:
        raise JaxcamError(f"{file}: holds captions, no objects; give the instances file")
    if not (isinstance(images, list) and isinstance(marks, list) and isinstance(kinds, list)) or not images:
        lacking = [k for k in ("images", "annotations", "categories") if not isinstance(content.get(k), list)]
        raise JaxcamError(f"{file}: has no {' and no '.join(lacking or ['images'])}; {wanted}")
    problems: list[Problem] = []
    names = {i: str(k["name"]).strip() for i, k in _coco_rows(kinds, "category", "name", file, problems).items()}
    rows = _coco_rows(images, "picture", "file_name", file, problems)
    pictures = {i: (str(row["file_name"]), _coco_size(row)) for i, row in rows.items()}
    if not pictures:
        raise JaxcamError(f"{file}: {problems[-1].why}; {wanted}")
    objects: dict[Any, list[Marked]] = {i: [] for i in pictures}
    good, shares = 0, False
    for n, mark in enumerate(marks):
        where = f"{file.name}, annotation {mark.get('id', n) if isinstance(mark, dict) else f'number {n}'}"
        picture = label = None
        hard = False
        if not isinstance(mark, dict):
            problems.append(Problem("annotation without box", file.name, f"{where}: is no table"))
            continue
        try:
            if _coco_id(mark["image_id"]) not in pictures:
                problems.append(
                    Problem("annotation without picture", str(mark["image_id"]), f"{where}: no such image id")
                )
                continue
            picture, label = _coco_id(mark["image_id"]), names.get(_coco_id(mark["category_id"]))
            if label is None:
                raise ValueError(f"no category has the id {mark['category_id']!r}")
            try:
                hard = _truth(mark.get("iscrowd", 0))
            except ValueError as e:
                raise ValueError(f"iscrowd {e}") from None
            outline, size = mark.get("segmentation"), pictures[picture][1]
            mask = Outlined(size, outline) if outline and (size or isinstance(outline, dict)) else None
            if outline and mask is None:
                why = f"{where}: the file does not tell the size of its picture"
                problems.append(Problem("outline left out", pictures[picture][0], why))
            objects[picture].append(Marked(label, _coco_box(_coco_bounds(mark, mask)), hard, mask))
            good += 1
        except (KeyError, TypeError, AttributeError) as e:
            name = pictures[picture][0] if label is not None else file.name
            problems.append(Problem("annotation without box", name, f"{where}: lacks {e}"))
            if label is not None:
                objects[picture].append(Marked(label, None, hard))
        except ValueError as e:
            good, shares = good + 1, shares or isinstance(e, SharesError)
            problems.append(Problem("bad box", pictures[picture][0], f"{where}: {e}"))
            if label is not None:
                objects[picture].append(Marked(label, None, hard))
    if marks and not good and any(p.kind == "annotation without box" for p in problems):
        why = next(p.why for p in problems if p.kind == "annotation without box")
        raise JaxcamError(f"{file}: {why.split(', ', 1)[1].replace(':', '', 1)}; it holds no instances")
    if shares:
        for i, marked in objects.items():
            whole = [m for m in marked if m.box == _WHOLE]
            why = f"{file.name}: {SharesError('(0, 0, 1, 1)')}"
            problems += [Problem("bad box", pictures[i][0], why) for _ in whole]
            objects[i] = [m._replace(box=None) if m.box == _WHOLE else m for m in marked]
    found: dict[str, Annotation] = {}
    for i, (name, size) in pictures.items():  # a file that has two rows, as merged data sets do, has what both hold
        first = found.get(name, Annotation(size, ()))
        if first.size != size:
            problems.append(Problem("picture with two sizes", name, f"{_spelled(first.size)} and {_spelled(size)}"))
        found[name] = Annotation(first.size or size, (*first.objects, *objects[i]))
    return Instances(tuple(dict.fromkeys(names.values())), found, problems)


def _coco_rows(rows: list, kind: str, name: str, file: pathlib.Path, problems: list[Problem]) -> dict[Any, dict]:
    """The rows that have an id and a name, by id and in its order; a problem for each of the others."""
    found: dict[Any, dict] = {}
    for n, row in enumerate(rows):
        where = f"{file.name}, {kind} {n}"
        try:
            identity = _coco_id(row["id"])
            if row[name] is None or not str(row[name]).strip():
                raise KeyError(name)
        except KeyError as e:
            problems.append(Problem(f"{kind} without id or name", file.name, f"{where}: lacks {e}"))
            continue
        except TypeError:
            problems.append(Problem(f"{kind} without id or name", file.name, f"{where}: is no table with an id"))
            continue
        if identity in found:
            problems.append(Problem(f"{kind} id given twice", file.name, f"{where}: {row['id']}; the last one counts"))
        found[identity] = row
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _coco_id(value: Any) -> int | str:
    """An id; a number that was written as text is a number.

    Raises:
      TypeError: it is no number and no text.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,30}(\.0*)?\s*", value):
        return int(value.partition(".")[0])
    if not isinstance(value, int | float | str):
        raise TypeError(f"an id {value!r}")
    return value  # type: ignore[return-value]


def _coco_bounds(mark: dict, mask: Outlined | None) -> Any:
    """The box of an instance, or that of its outline where it gives no other."""
    outline = mark.get("segmentation")
    if mark.get("bbox") or not outline:
        return mark["bbox"]
    if isinstance(outline, dict) and mask is not None:
        try:
            rows, columns = np.nonzero(mask.read())
        except JaxcamError as e:
            raise ValueError(str(e)) from None
        if not len(rows):
            raise ValueError("the outline covers nothing")
        x, y = int(columns.min()), int(rows.min())
        return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
    try:
        xs, ys = ([float(v) for part in polygons(outline) for v in part[k::2]] for k in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, ValueError):
        return mark["bbox"]


def _coco_box(bbox: Any) -> Box:
    """`x, y, width, height` as a box."""
    try:
        x, y, w, h = (float(v) for v in bbox)
    except (TypeError, ValueError):
        raise ValueError(f"the box {_spelled(bbox)} is not four numbers") from None
    return to_box((x, y, x + w, y + h), f"{_spelled(bbox)} (x, y, width, height)")


def _coco_size(image: dict) -> tuple[int, int] | None:
    try:
        width, height = (int(float(image.get(k) or 0)) for k in ("width", "height"))
    except (TypeError, ValueError, OverflowError):
        return None
    return _possible(width, height)  # -1 where a tool did not know
