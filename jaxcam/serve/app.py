"""The page and its two answers: what a network has, and the maps of a photo."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import threading
from typing import Any

import jinja2
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from jaxcam import __version__
from jaxcam.data.images import to_picture
from jaxcam.errors import JaxcamError, visible
from jaxcam.explanation.explain import explain
from jaxcam.explanation.overlays import overlay
from jaxcam.explanation.result import Explanation, gap_of
from jaxcam.methods.registry import METHODS, request
from jaxcam.models.classifier import Classifier
from jaxcam.notebooks import data_uri

#: Bytes of a photo, seconds of an answer, maps in one, and the longer side of the pictures that are sent back.
MAX_BYTES, MAX_SECONDS, MAX_MAPS, SIDE = 20 << 20, 60.0, 24, 720
#: Besides the photo a form holds a few short texts.
_REST = 64 << 10
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
#: Nothing from elsewhere is loaded, nothing is framed, and the page runs its own script alone.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclasses.dataclass
class Offer:
    """The networks that a page offers, and one map at a time.

    Attributes:
      networks: by name.
      seconds: what an answer may take.
    """

    networks: dict[str, Classifier]
    seconds: float = MAX_SECONDS

    def __post_init__(self):
        self._turn = threading.Lock()

    def network(self, name: str) -> Classifier:
        """One of those that are offered; no other, and no file."""
        if name not in self.networks:
            raise JaxcamError(f"this page offers {', '.join(self.networks)}, and not {name!r}")
        return self.networks[name]

    def explained(self, photo: bytes, form: dict[str, str]) -> dict[str, Any]:
        """The maps of a photo, as JSON; one request at a time, as a map takes all of the device."""
        network = self.network(form.get("network", ""))
        methods = [m for m in form.get("methods", "").split() if m]
        targets: Any = [t.strip() for t in form.get("classes", "").split(";") if t.strip()]
        if not targets:
            targets = _number(form.get("top", "1"))
        count = (len(targets) if isinstance(targets, list) else targets) * max(1, len(methods))
        if count > MAX_MAPS:
            raise JaxcamError(f"{count} maps are more than the {MAX_MAPS} that one answer holds")
        layer = form.get("layer") or None
        picture = to_picture(photo, name="the photo")
        if not self._turn.acquire(timeout=self.seconds):
            raise TimeoutError
        try:
            [found] = explain(network, picture, methods=methods or None, targets=targets, layer=layer)
        finally:
            self._turn.release()
        signed = form.get("signed") == "on"
        return {**_answer(found, signed), "code": _code(network.name, methods, targets, layer, signed)}


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_MAPS:
        raise JaxcamError(f"classes: a number from 1 to {MAX_MAPS}, or names with ; between them, not {text!r}")
    return int(text)


def _answer(found: Explanation, signed: bool) -> dict[str, Any]:
    """An explanation as JSON: pictures as data URIs, numbers as a person reads them."""
    photo = found.image.copy()
    photo.thumbnail((SIDE, SIDE))
    size = (photo.height, photo.width)
    maps = []
    for r in found.results:
        blank = r.empty is not None and not signed
        heat = None if blank else r.heatmap_at(size, signed=signed)
        maps.append({
            "picture": _uri(overlay(photo, heat, signed=signed)), "method": r.method,
            "title": request(r.method).info.title, "class": r.class_name, "value": r.value, "logit": f"{r.logit:.3f}",
            "gap": gap_of(r), "milliseconds": f"{1000 * r.seconds:.0f}", "empty": r.empty or "", "doubt": r.doubt or "",
        })  # fmt: skip
    top = [[name, f"{100 * p:.1f}\N{NO-BREAK SPACE}%"] for name, p in found.top(5)]
    return {"photo": _uri(photo), "layer": found.layer, "network": found.model, "top": top, "maps": maps}


def _uri(picture: Image.Image) -> str:
    return data_uri(picture.convert("RGB"), "jpeg", quality=88)


def _code(name: str, methods: list[str], targets: Any, layer: str | None, signed: bool) -> str:
    """The Python that makes the same."""
    given = [
        f"targets={targets!r}",
        *([f"methods={methods!r}"] if methods else []),
        *([f"layer={layer!r}"] if layer else []),
    ]
    return (
        "import jaxcam\n\n"
        f"network = jaxcam.load({name!r})\n"
        f'[explanation] = jaxcam.explain(network, "photo.jpg", {", ".join(given)})\n'
        f'jaxcam.plot(explanation, "explanation.png"{", signed=True" if signed else ""})\n'
    )


async def _form(request: Request) -> tuple[bytes, dict[str, str]]:
    """The photo and the other fields of a form, of which no more is read than may be sent."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "say how long the request is")
    if int(length) > MAX_BYTES + _REST:
        raise HTTPException(413, f"photos of up to {MAX_BYTES >> 20} MB are taken")
    async with request.form(max_files=1, max_fields=12, max_part_size=_REST) as form:
        photo = form.get("photo")
        if photo is None or isinstance(photo, str):
            raise HTTPException(400, "no photo was sent")
        data = await photo.read(MAX_BYTES + 1)
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
    if len(data) > MAX_BYTES:
        raise HTTPException(413, f"photos of up to {MAX_BYTES >> 20} MB are taken")
    return data, fields


def app(networks: dict[str, Classifier], *, hosts: tuple[str, ...], seconds: float = MAX_SECONDS) -> Starlette:
    """The application.

    Args:
      networks: what is offered, by name; the first one is chosen at the beginning.
      hosts: names that the page may be asked for by: a script of another page that reaches this machine under a name of
        its own is refused.
      seconds: what an answer may take.
    """
    offer = Offer(networks, seconds)
    page = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True).get_template("page.html")

    async def index(request: Request) -> Response:
        methods = [(name, info.title, info.cost) for name, info in METHODS.items()]
        return HTMLResponse(
            page.render(networks=list(networks), methods=methods, version=__version__), headers=_HEADERS
        )

    async def about(request: Request) -> Response:
        network = offer.network(request.query_params.get("name", ""))
        layers = {"layers": list(network.layers), "layer": network.default_layer, "classes": list(network.classes)}
        return JSONResponse(layers, headers=_HEADERS)

    async def explained(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise HTTPException(403, "another page may not ask")
        photo, form = await _form(request)
        work = asyncio.to_thread(offer.explained, photo, form)
        return JSONResponse(await asyncio.wait_for(work, offer.seconds), headers=_HEADERS)

    async def asset(request: Request) -> Response:
        name, kind = _ASSETS[request.url.path]
        return Response((_TEMPLATES / name).read_text(encoding="utf-8"), media_type=kind, headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/", index), Route("/network", about), Route("/explain", explained, methods=["POST"]),
            *(Route(path, asset) for path in _ASSETS),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={
            JaxcamError: _mistake, NotImplementedError: _mistake, TimeoutError: _late, HTTPException: _http,
        },
    )  # fmt: skip


_ASSETS = {"/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}


async def _mistake(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": visible(" ".join(str(error).split()))}, 400, headers=_HEADERS)


async def _late(request: Request, error: Exception) -> Response:
    return JSONResponse(
        {"error": "this takes too long here; ask for fewer maps or a faster method"}, 503, headers=_HEADERS
    )


async def _http(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=_HEADERS)
