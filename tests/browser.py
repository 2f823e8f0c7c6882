"""A headless Chromium, driven through its debugging pipe as a person would use it.

Where no Chromium is installed, tests that need one are skipped: see `found`.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}
CTRL = 2
PATIENCE = 60.0  # seconds that a condition may take on a busy machine


def found() -> str | None:
    """The program. None: there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Navigated(AssertionError):
    """The document went away while it was asked something."""


class Page:
    """One tab."""

    def __init__(self, read: int, write: int) -> None:
        self._read = os.fdopen(read, "rb", buffering=0)
        self._write = os.fdopen(write, "wb", buffering=0)
        self._held = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []
        """What the page threw or printed as an error, CSP violations included."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.requests: list[str] = []

    def open(self, path: Path, fragment: str = "") -> None:
        self.requests.clear()
        self.js("delete document.documentElement.dataset.ready")  # the old page is no answer
        self._call("Page.navigate", url=path.absolute().as_uri() + fragment)
        self.wait("document.documentElement.dataset.ready === ''")

    def visit(self, address: str) -> None:
        """Begin to load an address; the caller waits for what it expects there."""
        self.errors.clear()
        self._call("Page.navigate", url=address)

    def size(self, width: int, height: int, *, is_dark: bool = False) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def js(self, expression: str) -> Any:
        """The value of an expression; of a promise, what it resolves to."""
        held = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in held:
            raise AssertionError(f"{expression}: {held['exceptionDetails']}")
        return held["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Until the expression is true."""
        until = time.monotonic() + PATIENCE
        frame = f"new Promise((done) => requestAnimationFrame(() => done({condition})))"
        while time.monotonic() < until:
            with suppress(Navigated):
                if value := self.js(frame):
                    return value
        raise AssertionError(f"never true: {condition}")

    def press(self, key: str, modifiers: int = 0) -> None:
        code = KEYS.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self._call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click in the middle of the first element that fits, once it is in view."""
        self.js(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})"
        )
        x, y = self.js(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self) -> bytes:
        """The part in view, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    what = str(answer["error"])
                    lost = "navigated" in what or "context" in what.lower()
                    raise (Navigated if lost else AssertionError)(f"{method}: {what}")
                return answer["result"]
            self._note(answer)

    def _next(self) -> Any:
        while b"\0" not in self._held:
            if not (more := self._read.read(1 << 20)):
                raise AssertionError("the browser has ended")
            self._held += more
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@contextmanager
def browser(program: str) -> Iterator[Page]:
    """A tab in a new Chromium, with a profile of its own, which ends with the block."""
    to_read, to_write = os.pipe(), os.pipe()  # Chromium reads commands on 3, and answers on 4
    # Chromium's own children may still write in it when it has ended.
    kept = tempfile.TemporaryDirectory(prefix="factory-browser-", ignore_cleanup_errors=True)
    with kept as profile:
        options = [
            *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
            *("--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        shell = ["bash", "-c", f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}', "chromium"]
        process = subprocess.Popen(
            [*shell, program, *options, "about:blank"],
            pass_fds=(to_read[0], to_write[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            yield Page(to_write[0], to_read[1])
        finally:
            process.terminate()
            process.wait()
