"""A headless Chromium, driven as a person would: by addresses, keys and looks at the page.

It speaks Chrome's DevTools protocol over a web socket, so that a test needs the browser alone.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What Chrome calls keys that are no character.
_CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Tab": 9}
_PATIENCE = 30.0  # seconds
CTRL = 2


class Browser:
    """One page."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.messages: list[str] = []
        """What the page logged, refusals by its security policy included."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_PATIENCE))
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.messages.append(json.dumps(answer["params"]))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until it is true."""
        end = time.monotonic() + _PATIENCE
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}\n{self.text()}"

    def text(self) -> str:
        """What a person can read on the page."""
        return str(self.js("document.body?.innerText ?? ''"))

    def press(self, key: str, modifiers: int = 0) -> None:
        one = {"key": key, "modifiers": modifiers}
        if key in _CODES:
            one |= {"windowsVirtualKeyCode": _CODES[key], "code": key}
        text = {"text": key} if len(key) == 1 and not modifiers else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **one, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **one)

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def look(self, width: int, height: int, *, is_dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def photograph(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile in `folder`. Skips the test where none is installed."""
    from websockets.sync.client import connect

    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium or Chrome is installed: the page is not looked at")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([program, *options], stdout=quiet, stderr=quiet)
    try:
        with connect(_page_of(folder), max_size=None, compression=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def _page_of(folder: Path) -> str:
    """The address of the first page's socket, once the browser has started."""
    end = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
            port = int((folder / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = json.load(answer)
            return str(next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"])
        assert time.monotonic() < end, "the browser did not start"
