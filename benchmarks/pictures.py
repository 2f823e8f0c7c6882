"""Pictures of a run's page for docs/, taken by a headless Chromium and saved with few colors."""

from __future__ import annotations

import io
from pathlib import Path

from tests.browser import Page, browser, found

COLORS = 256


def take(page: Path, folder: Path) -> list[Path]:
    """The overview, a sample, and both on a phone in the dark. Raises `SystemExit` without a Chromium."""
    if (program := found()) is None:
        raise SystemExit("no Chromium is installed here: apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    with browser(program) as tab:
        tab.size(1280, 900)
        tab.open(page)
        made = [_save(tab, folder / "report.png")]
        tab.press("/")
        tab.press("Escape")
        for _ in range(4):
            tab.press("j")
        tab.press("Enter")
        tab.wait("!document.getElementById('browser').classList.contains('closed')")
        tab.js("document.getElementById('detail').scrollTop = 330")
        made.append(_save(tab, folder / "report-sample.png"))
        tab.size(390, 844, is_dark=True)
        tab.open(page)
        made.append(_save(tab, folder / "report-phone.png"))
        return made


def _save(tab: Page, path: Path) -> Path:
    from PIL import Image

    tab.wait("true")  # a frame later
    with Image.open(io.BytesIO(tab.picture())) as picture:
        picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path
