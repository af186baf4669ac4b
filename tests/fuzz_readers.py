"""Reads seeded mutations of honest files of one format, in little memory: `python fuzz_readers.py FORMAT COUNT [SEED]`.

Prints one line of JSON: mutations, how many were refused, the longest time, and the memory taken at the most. Whatever
comes out but a `JaxcamError` or a result ends it with a traceback. Without arguments each line that it is given, a JSON
list of these, is done by a process of its own, that has the imports already; the answer is the process's JSON and, in a
line of its own, its exit status.
"""

from __future__ import annotations

import io
import json
import pathlib
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
from forking import serve
from PIL import Image

from jaxcam.converters import read_tensors
from jaxcam.data.annotations import read_boxes_csv, read_coco, read_xml
from jaxcam.data.images import open_image
from jaxcam.errors import JaxcamError

GRANTED = 1 << 30  # bytes of address space on top of what Python, NumPy and JAX hold
RNG = np.random.default_rng(0)
STATE = {"a.weight": RNG.normal(size=(8, 3, 3, 3)).astype("f4"), "a.bias": np.ones(8, "f4"), "n": np.zeros((), "i8")}


def _hdf5(folder: pathlib.Path, **options) -> bytes:
    import h5py

    with h5py.File(folder / "made", "w") as f:
        f.attrs["layer_names"] = [b"conv"]
        g = f.create_group("conv")
        g.attrs["weight_names"] = [b"conv/kernel:0", b"conv/bias:0"]
        g.create_dataset("conv/kernel:0", data=STATE["a.weight"], **options)
        g["conv/bias:0"] = STATE["a.bias"]
    return (folder / "made").read_bytes()


def _torch(layout: str) -> Callable[[pathlib.Path], bytes]:
    def made(folder: pathlib.Path) -> bytes:
        import foreign_files as ff

        write = {"zip": ff.write_zip, "legacy": ff.write_legacy}[layout]
        return write(folder / "made", STATE, wrap="state_dict").read_bytes()

    return made


def _safetensors(folder: pathlib.Path) -> bytes:
    from safetensors.numpy import save

    return save(STATE)


def _npz(save: Callable) -> Callable[[pathlib.Path], bytes]:
    def made(folder: pathlib.Path) -> bytes:
        file = io.BytesIO()
        save(file, **STATE)
        return file.getvalue()

    return made


def _picture(kind: str, **options) -> Callable[[pathlib.Path], bytes]:
    def made(folder: pathlib.Path) -> bytes:
        file = io.BytesIO()
        Image.fromarray(RNG.integers(0, 255, (24, 32, 3), np.uint8)).save(file, kind, **options)
        return file.getvalue()

    return made


def _text(text: str) -> Callable[[pathlib.Path], bytes]:
    return lambda folder: text.encode()


_BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
_COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat"}],
}
_XML = (
    f"<annotation><size><width>50</width><height>60</height></size><object><name>c</name>{_BOX}</object></annotation>"
)
FORMATS: dict[str, tuple[Callable[[pathlib.Path], bytes], Callable]] = {
    "pth": (_torch("zip"), read_tensors),
    "legacy": (_torch("legacy"), read_tensors),
    "safetensors": (_safetensors, read_tensors),
    "hdf5": (_hdf5, read_tensors),
    "hdf5 packed": (lambda f: _hdf5(f, chunks=(2, 3, 3, 3), compression="gzip", shuffle=True), read_tensors),
    "npz": (_npz(np.savez), read_tensors),
    "npz packed": (_npz(np.savez_compressed), read_tensors),
    "png": (_picture("PNG"), open_image),
    "jpeg": (_picture("JPEG"), open_image),
    "gif": (_picture("GIF"), open_image),
    "webp": (_picture("WEBP"), open_image),
    "tiff": (_picture("TIFF", compression="tiff_lzw"), open_image),
    "bmp": (_picture("BMP"), open_image),
    "jp2": (_picture("JPEG2000"), open_image),
    "avif": (_picture("AVIF"), open_image),
    "coco": (_text(json.dumps(_COCO)), read_coco),
    "voc": (_text(_XML), read_xml),
    "csv": (_text("image,wnid,x0,y0,x1,y1\na.jpg,cat,1,2,30,40\nb.jpg,dog,1,2,3,4\n"), read_boxes_csv),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bits, bytes, numbers or stretches of a file changed."""
    bad = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(bad) or 1)
        how = rng.randrange(7)
        if how == 0:
            bad[at : at + 1] = bytes([bad[at] ^ 1 << rng.randrange(8)]) if bad else b""
        elif how == 1:
            bad[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 2:
            bad[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x40", b"9999")
            )
        elif how == 3:
            bad[at : at + 8] = rng.choice((b"\xff" * 8, b"\0\0\0\0\1\0\0\0", bytes(8)))
        elif how == 4:
            del bad[at : at + rng.randrange(1, 64)]
        elif how == 5:
            bad[at:at] = bad[at : at + rng.randrange(1, 64)] * rng.choice((1, 2, 50))
        else:
            to = rng.randrange(len(bad) or 1)
            bad[at : at + 16] = bad[to : to + 16]
    return bytes(bad[: rng.randrange(len(bad))] if bad and rng.random() < 0.1 else bad)


def main(name: str, count: int, seed: int = 0) -> None:
    """Runs the mutations."""
    warnings.simplefilter("ignore")
    make, read = FORMATS[name]
    refused, longest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file"
        honest = make(path.parent)
        path.write_bytes(honest)
        read(path)
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + GRANTED,) * 2)
        for i in range(count):
            path.write_bytes(mutated(honest, random.Random(f"{name} {seed} {i}")))
            began = time.perf_counter()
            try:
                read(path)
            except JaxcamError as e:
                refused += 1
                assert str(e).startswith(str(path)) and "\n" not in str(e), e
            except BaseException:
                print(f"{name}: mutation {i} of seed {seed}", file=sys.stderr)
                raise
            longest = max(longest, time.perf_counter() - began)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    print(json.dumps({"format": name, "mutations": count, "refused": refused, "longest_s": round(longest, 3),
                      "grown_mb": grown >> 10}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])) if sys.argv[1:] else serve(main, 600)
