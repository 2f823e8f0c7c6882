"""Pictures for docs/, taken by a headless Chromium and saved with few colors: of a run's page
(`benchmarks.report --pictures`), and of the page of `factory review`.

    python -m benchmarks.pictures DIR     the review's pictures
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from factory.review.journal import opened
from tests.browser import Page, browser, found
from tests.reviewing import judged, made_run, served, session_of

COLORS = 256
ANSWERS = (
    "Use plenty of boiling, salted water, and stir the pasta during the first two minutes, when its surface "
    "is stickiest. Toss it with its sauce at once. Oil in the water does little, and keeps sauce from "
    "holding on.",
    "Use plenty of boiling water with a spoon of oil in it, and stir the pasta from time to time. When it is "
    "done, rinse it with cold water. Toss it with its sauce at once.",
)


def take(page: Path, folder: Path) -> list[Path]:
    """The overview, a sample, and both on a phone in the dark. Raises `SystemExit` without a Chromium."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser(_program()) as tab:
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


def take_review(folder: Path) -> list[Path]:
    """A pair with its differences marked, and the same on a phone in the dark."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [judged(i, 0.6, *ANSWERS) for i in range(40)]
    for pair in pairs:
        pair.prompt[0]["content"] = "How do I keep pasta from sticking together?"
    with (
        tempfile.TemporaryDirectory() as made,
        opened(made_run(Path(made) / "run", pairs), "anna") as journal,
        served(session_of(Path(made) / "run", journal)) as address,
        browser(_program()) as tab,
    ):
        tab.size(1280, 800)
        tab.visit(address)
        tab.wait("document.body?.dataset.state === 'ready'")
        tab.press("d")
        pictures = [_save(tab, folder / "review.png")]
        tab.size(390, 844, is_dark=True)
        return [*pictures, _save(tab, folder / "review-phone.png")]


def _program() -> str:
    if (program := found()) is None:
        raise SystemExit("no Chromium is installed here: apt-get install chromium")
    return program


def _save(tab: Page, path: Path) -> Path:
    from PIL import Image

    tab.wait("true")  # a frame later
    with Image.open(io.BytesIO(tab.picture())) as picture:
        picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


if __name__ == "__main__":
    for path in take_review(Path(sys.argv[1])):
        print(path)
