"""The review's page in a real browser, used by its keys."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from factory.export.decisions import Decision, path_of, read_file
from factory.review.journal import Journal, opened
from factory.review.session import Session
from tests.browser import CTRL, Page, browser, found
from tests.reviewing import judged, made_run, served, session_of

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
ODD = "before \u202egnp.exe\u202c and NUL \0 and \x1b[31mred"
READY = "document.body?.dataset.state === 'ready'"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = found()
    if program is None:
        pytest.skip("no Chromium or Chrome is installed, so nobody looks at the page")
    with browser(program) as one:
        yield one


class Full(Journal):
    """A journal whose disk may be full."""

    is_full = False

    def append(self, decisions: Sequence[Decision]) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(decisions)


def review(page: Page, run: Path, address: str) -> None:
    page.size(1280, 800)
    page.visit(address)
    page.wait(f"{READY} && location.href === '{address}'")
    # Keys do nothing for a moment after a pair shows, lest they decide one unseen.
    page.js("ready = 0")


def text(page: Page) -> str:
    """What a person can read."""
    return str(page.js("document.body.innerText"))


def press(page: Page, *keys: str) -> None:
    """Press keys, each once the page is ready for it."""
    for key in keys:
        page.wait(READY)
        page.js("ready = 0")
        page.press(key)


def decided(page: Page, count: int) -> None:
    page.wait(f"{READY} && document.body.innerText.includes(' {count} of ')")


def made(run: Path) -> list[Any]:
    """(sample's id, side or label, edit, note) of each decision."""
    return [
        (
            d.prompt_id,
            ("left" if d.label == d.left else "right") if d.label in ("a", "b") else d.label,
            d.edit,
            d.note,
        )
        for d in read_file(path_of(run, "anna"))
    ]


def test_a_review_by_keys(page: Page, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(i, 0.5 + i / 50) for i in range(7)])
    with opened(run, "anna") as journal, served(session_of(run, journal)) as address:
        review(page, run, address)
        assert "Is kind: Which answer is kinder?" in text(page)
        press(page, "ArrowLeft")
        decided(page, 1)
        press(page, "2")
        decided(page, 2)
        press(page, "t")
        decided(page, 3)
        press(page, "u")
        decided(page, 2)
        press(page, "n")
        page.type("both are rude")
        page.press("Enter")
        press(page, "b")
        decided(page, 3)
        press(page, "s")
        page.wait("document.body.innerText.includes('1 skipped')")
        press(page, "e", "ArrowRight")
        page.wait("!document.getElementById('editor').hidden")
        page.type("Kindly: ")
        page.press("ArrowLeft")  # in the editor it moves the cursor
        page.press("Enter", CTRL)
        decided(page, 4)
        press(page, "e", "Escape", "t")
        decided(page, 5)
        press(page, "t")
        page.wait("document.body.innerText.includes('These were skipped.')")
        press(page, "1")
        page.wait("!document.getElementById('end').hidden")
        assert "7 of 7 decided" in text(page)
        right = next(d for d in read_file(path_of(run, "anna")) if d.edit is not None)
    better = right.response_a if right.label == "a" else right.response_b
    assert [one[:2] for one in made(run)] == [
        ("p0", "left"),
        ("p1", "right"),
        ("p2", "tie"),
        ("p2", "undone"),
        ("p2", "both_bad"),
        ("p3", "skip"),
        ("p4", "right"),
        ("p5", "tie"),
        ("p6", "tie"),
        ("p3", "left"),
    ]
    assert made(run)[4][3] == "both are rude"
    assert right.edit == f"Kindly: {better}"
    assert page.errors == []


def test_texts_of_models_are_shown_as_text(page: Page, tmp_path: Path) -> None:
    of = judged(0, 0.5, HOSTILE, ODD)
    of.prompt.insert(0, {"role": "system", "content": HOSTILE})
    of.candidates[0].reasoning = HOSTILE
    run = made_run(tmp_path / "run", [of])
    with opened(run, "anna") as journal, served(session_of(run, journal)) as address:
        review(page, run, address)
        press(page, "o")
        assert text(page).count(HOSTILE) == 3
        assert "before [U+202E]gnp.exe[U+202C] and NUL [U+0000] and [U+001B][31mred" in text(page)
        press(page, "d")
        assert HOSTILE in text(page)
        assert page.js("document.title") == "Review"
        assert (
            page.js("document.images.length + document.querySelectorAll('main script').length") == 0
        )
    assert page.errors == []


def test_a_line_of_a_megabyte_fits_the_page(page: Page, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(0, 0.5, "x" * 1_000_000, "short")])
    with opened(run, "anna") as journal, served(session_of(run, journal)) as address:
        review(page, run, address)
        shown = (
            "Math.max(...[...document.querySelectorAll('.answer')].map(a => a.textContent.length))"
        )
        assert page.js(shown) == 20_000
        assert "Show the other 980,000 characters" in text(page)
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        page.js("document.querySelector('.rest:not([hidden])').click()")
        assert page.js(shown) == 1_000_000
        press(page, "ArrowRight")
        decided(page, 1)


def test_words_that_differ_are_marked_on_request(page: Page, tmp_path: Path) -> None:
    run = made_run(
        tmp_path / "run", [judged(0, 0.5, "one two  three four", "one 2 three five four")]
    )
    with opened(run, "anna") as journal, served(session_of(run, journal)) as address:
        review(page, run, address)
        marks = "[...document.querySelectorAll('mark')].map(m => m.textContent).sort().join()"
        assert page.js(marks) == ""
        press(page, "d")
        assert page.js(marks) == "2,five,two"
        press(page, "d")
        assert page.js(marks) == ""


@pytest.mark.parametrize("is_dark", [False, True])
def test_it_fits_a_phone_and_a_wide_screen_by_day_and_night(
    page: Page, tmp_path: Path, is_dark: bool
) -> None:
    run = made_run(tmp_path / "run", [judged(0, 0.5, "word " * 200, "w" * 500)])
    tops = "[...document.querySelectorAll('article')].map(a => a.getBoundingClientRect().top)"
    light = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) > 128"
    with opened(run, "anna") as journal, served(session_of(run, journal)) as address:
        review(page, run, address)
        page.size(1280, 800, is_dark=is_dark)
        left, right = page.js(tops)
        assert left == right  # beside each other
        assert page.js(light) is not is_dark
        page.size(390, 844, is_dark=is_dark)
        left, right = page.js(tops)
        assert left < right  # below each other
        assert page.js("document.documentElement.scrollWidth") <= 390
        # A thumb decides too.
        page.js("document.querySelector('[data-key=t]').click()")
        decided(page, 1)
        page.size(1280, 800)


def test_a_full_disk_is_told_and_nothing_shows_as_taken(page: Page, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(i, 0.5 + i / 50) for i in range(2)])
    with opened(run, "anna") as plain:
        journal = Full(plain.path, plain._descriptor, plain._held)
        session: Session = session_of(run, journal)
        with served(session) as address:
            review(page, run, address)
            first = page.js("document.body.dataset.pair")
            journal.is_full = True
            press(page, "ArrowLeft")
            page.wait("document.body.dataset.state === 'failed'")
            assert "not saved: No space left on device; free some space" in text(page)
            assert "0 of 2 decided" in text(page)
            assert page.js("document.body.dataset.pair") == first
            journal.is_full = False
            page.js("ready = 0")
            page.press("ArrowLeft")
            decided(page, 1)
            assert "not saved" not in text(page)
        page.js("ready = 0")
        page.press("ArrowRight")  # the server has gone
        page.wait("document.body.dataset.state === 'failed'")
        assert "Not saved: the review has ended; start it again" in text(page)
        assert "1 of 2 decided" in text(page)
    assert [one[:2] for one in made(run)] == [("p0", "left")]
