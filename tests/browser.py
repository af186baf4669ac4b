"""A headless Chromium, spoken to over its debugging pipe (NUL-ended JSON on descriptors 3 and 4)."""

from __future__ import annotations

import fcntl
import importlib.resources
import json
import os
import select
import shutil
import subprocess
import time


def find() -> str | None:
    """The binary that JAXCAM_CHROMIUM names, else one on the path; None where there is none."""
    if named := os.environ.get("JAXCAM_CHROMIUM"):
        return shutil.which(named)
    names = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One browser with one page. `errors` and `requests` collect what the page logs and asks for."""

    def __init__(self, binary: str, profile: str):
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 10, so that neither overwrites the other when they become 3 and 4.
        high = [fcntl.fcntl(d, fcntl.F_DUPFD, 10) for d in (theirs_in, theirs_out)]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [binary, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
             "--hide-scrollbars", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=place, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in (theirs_in, theirs_out, *high):
            os.close(descriptor)
        self._rest, self._number, self._session = b"", 0, None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **params) -> dict:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict:
        end = time.monotonic() + 60
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], max(0, end - time.monotonic()))[0], "the browser does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(line)
        kind, params = message.get("method", ""), message.get("params", {})
        self._events.append(kind)
        if kind in (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        ):
            self.errors.append(json.dumps(params))
        if kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message

    def open(self, url: str, *, width: int, dark: bool) -> None:
        """Loads a page at a width, in the dark or the light scheme, and waits until it stands."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.errors.clear()
        self.requests.clear()
        self._events.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._read()

    def value(self, expression: str):
        """What an expression is in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def barriers(self) -> list:
        """What axe-core finds in the page that is a serious or critical barrier to somebody; none without it."""
        try:
            script = importlib.resources.files("axe_core_python") / "axe.min.js"
        except ModuleNotFoundError:
            return []
        self.call("Runtime.evaluate", expression=script.read_text(encoding="utf-8"))
        found = """axe.run().then(r => r.violations.filter(v => ["serious", "critical"].includes(v.impact))
            .map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"""
        result = self.call("Runtime.evaluate", expression=found, awaitPromise=True, returnByValue=True)
        return result["result"]["value"]
