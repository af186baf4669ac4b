"""`jaxcam serve`: what the page answers, what it refuses, and the page itself in a browser."""

from __future__ import annotations

import base64
import io
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from networks import CLASSES, VGG, network, picture
from PIL import Image

import jaxcam

httpx = pytest.importorskip("httpx")
pytest.importorskip("multipart", reason="python-multipart is not installed")
testclient = pytest.importorskip("starlette.testclient")
serve = pytest.importorskip("jaxcam.serve.app")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PHOTO = picture(40, 70, 1)


@pytest.fixture(scope="module")
def tiny():
    return network(VGG)


@pytest.fixture(scope="module")
def client(tiny):
    made = serve.app({"tiny": tiny}, hosts=("localhost",))
    with testclient.TestClient(made, base_url="http://localhost", raise_server_exceptions=False) as found:
        yield found


def asked(client, photo=None, headers=None, **fields):
    files = {"photo": ("photo.png", png(PHOTO) if photo is None else photo)}
    return client.post("/explain", data={"network": "tiny", "methods": "grad_cam"} | fields, files=files,
                       headers=headers)  # fmt: skip


def test_the_answer_is_that_of_explain(client, tiny):
    found = asked(client, methods="grad_cam lift_cam", classes="Tench; golf ball").json()
    [want] = jaxcam.explain(tiny, PHOTO, methods=["grad_cam", "lift_cam"], targets=["tench", "golf ball"])
    assert [(m["method"], m["class"], m["logit"]) for m in found["maps"]] == [
        (r.method, r.class_name, f"{r.logit:.3f}") for r in want.results
    ]
    assert [m["gap"] for m in found["maps"]][::2] == ["-", "-"]
    for m, r in zip(found["maps"], want.results, strict=True):
        kind, _, data = m["picture"].partition(",")
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            assert kind == "data:image/jpeg;base64" and shown.size == (70, 40)
            heat = jaxcam.overlay(PHOTO, r.heatmap, alpha=0 if r.empty else 0.7)
            assert np.abs(np.asarray(shown, float) - np.asarray(heat, float)).mean() < 8
    assert found["layer"] == want.layer and len(found["top"]) == 4
    space: dict = {}
    calls = []
    fake = type("jaxcam", (), {"load": staticmethod(lambda name: name), "plot": staticmethod(lambda *a, **k: None),
                               "explain": staticmethod(lambda *a, **k: calls.append((a, k)) or [0])})  # fmt: skip
    exec(found["code"].replace("import jaxcam", ""), {"jaxcam": fake}, space)
    assert calls == [(("tiny", "photo.jpg"), {"targets": ["Tench", "golf ball"], "methods": ["grad_cam", "lift_cam"]})]


def test_the_page_offers_what_there_is(client, tiny):
    page = client.get("/")
    assert page.status_code == 200 and "tiny" in page.text and "HiRes-LIFT-CAM" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    about = client.get("/network?name=tiny").json()
    assert about == {"layers": list(tiny.layers), "layer": tiny.default_layer, "classes": list(CLASSES)}


@pytest.mark.parametrize(
    ("fields", "status", "why"),
    [
        ({"network": "/etc/passwd"}, 400, "offers tiny"),
        ({"network": "../tiny"}, 400, "offers tiny"),
        ({"methods": "grad_cat"}, 400, "did you mean grad_cam"),
        ({"layer": "conv9"}, 400, "no layer"),
        ({"classes": "tenhc"}, 400, "did you mean tench"),
        ({"top": "99"}, 400, "from 1 to"),
        ({"top": "24", "methods": "grad_cam lift_cam"}, 400, "48 maps are more than"),
        ({"photo": b"words"}, 400, "not a picture"),
        ({"photo": b""}, 400, "is not a picture"),
        ({"photo": bytes(20 << 20) + b"x"}, 413, "20 MB"),
        ({"headers": {"origin": "http://elsewhere.example"}}, 403, "another page"),
        ({"headers": {"host": "elsewhere.example"}}, 400, None),
    ],
)  # fmt: skip
def test_what_is_refused(client, fields, status, why):
    answer = asked(client, **fields)
    assert answer.status_code == status
    if why is not None:
        assert why in answer.json()["error"] and "\n" not in answer.json()["error"] and "/work" not in answer.text


def test_no_file_of_the_disk_is_served(client):
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/templates/page.html", "/page.css/../app.py", "/static/x"):
        assert client.get(path).status_code in (404, 400)
    assert client.get("/page.css").headers["content-type"].startswith("text/css")


def test_an_answer_that_takes_too_long_is_given_up(tiny):
    slow = serve.app({"tiny": tiny}, hosts=("localhost",), seconds=0.0)
    with testclient.TestClient(slow, base_url="http://localhost") as client:
        answer = asked(client)
    assert answer.status_code == 503 and "too long" in answer.json()["error"]


def test_the_command_serves_this_machine_and_ends_in_one_line(tmp_path):
    env = os.environ | {"PYTHONPATH": str(pathlib.Path(jaxcam.__file__).parents[1]), "JAXCAM_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "jaxcam", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=20) as page:
            assert b"Where does a network look?" in page.read()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in told


def test_the_command_lets_nobody_in_by_accident(fails):
    assert "--name" in fails("serve", "--host", "0.0.0.0")
    assert "0 to 65535" in fails("serve", "--port", "99999")


@pytest.fixture(scope="module")
def address(tiny):
    import threading

    import uvicorn

    made = serve.app({"tiny": tiny}, hosts=("127.0.0.1",))
    server = uvicorn.Server(uvicorn.Config(made, port=0, log_level="error"))
    socket = server.config.bind_socket()
    socket.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


_SEND = """(async () => {
  take(new File([Uint8Array.from(atob('%s'), c => c.charCodeAt(0))], 'my photo.png'));
  $('go').click();
  for (let i = 0; i < 600 && $('result').hidden && $('status').className != 'error'; i++)
    await new Promise(done => setTimeout(done, 50));
  return $('status').textContent;
})()"""
#: Controls without a name, and things too small for a finger.
_NAMELESS = """[...document.querySelectorAll('input, select, button')].filter(
  e => !(e.labels && e.labels.length) && !e.textContent.trim()).length"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_real_browser(chromium, address, width, dark):
    chromium.open(address, width=width, dark=dark)
    assert chromium.value("$('go').disabled") and chromium.value(_NAMELESS) == 0
    answer = chromium.call("Runtime.evaluate", expression=_SEND % base64.b64encode(png(PHOTO)).decode(),
                           awaitPromise=True, returnByValue=True)  # fmt: skip
    assert answer["result"]["value"] == "" and chromium.errors == []
    assert chromium.value("document.querySelectorAll('#maps img').length") == 2
    assert chromium.value("[...document.images].filter(i => !i.naturalWidth || !i.alt).length") == 0
    assert "LIFT-CAM: " in chromium.value("document.querySelector('#maps').innerText")
    assert 'jaxcam.load("tiny")' in chromium.value("$('code').textContent").replace("'", '"')
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert {url.split("/")[2] for url in chromium.requests if url.startswith("http")} == {address.split("/")[2]}
    assert chromium.barriers() == []
    shown = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, shown.strip("rgb()").split(","))) < 300) == dark


def test_a_mistake_is_told_on_the_page(chromium, address):
    chromium.open(address, width=800, dark=False)
    chromium.value("$('classes').value = '<b>tenhc</b>'")
    answer = chromium.call("Runtime.evaluate", expression=_SEND % base64.b64encode(png(PHOTO)).decode(),
                           awaitPromise=True, returnByValue=True)  # fmt: skip
    assert "no class called '<b>tenhc</b>'" in answer["result"]["value"]
    assert chromium.value("document.querySelectorAll('#status b').length") == 0
