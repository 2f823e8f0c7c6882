"""The report in a browser, used as a person uses it. Skipped where no Chromium is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from factory.core.records import Candidate, Critique, Failure, Reading, Sample
from factory.pipeline import traces
from factory.pipeline.manifest import Manifest
from factory.recipe.load import load
from factory.report.report import write_report
from factory.scorers.judge_pairwise import verdict
from tests import browser
from tests.browser import Page
from tests.conftest import make_project

program = browser.found()
pytestmark = pytest.mark.skipif(program is None, reason="no Chromium is installed here")

LONG = "z" * 1_000_000
HOSTILE = {
    "script": "<script>window.obeyed = 1</script><img src=x onerror='window.obeyed = 1'>",
    "ending": "</script><script>window.obeyed = 1</script><!--",
    "override": "abc\u202edef\u2066ghi",
    "nul": "before\x00after\x1b[31m",
    "long": LONG,
    "arabic": "مرحبا بالعالم",
}


def samples() -> Iterator[Sample]:
    for i in range(300):
        name = list(HOSTILE)[i] if i < len(HOSTILE) else f"plain-{i}"
        text = HOSTILE.get(name, f"It rains {i} days a year. Take a coat.")
        p = 0.9 if i % 3 else 0.2
        orders = (p, 0.9) if i % 5 else (p, 0.1)
        readings = [
            Reading("kind-words", s, q, 1.0, "") for s, q in zip((False, True), orders, strict=True)
        ]
        yield Sample(
            name,
            i,
            [
                {
                    "role": "user",
                    "content": text if i < len(HOSTILE) else f"How often does it rain? {i}",
                }
            ],
            tags=["hostile" if i < len(HOSTILE) else "weather"],
            candidates=[
                Candidate(
                    0,
                    text,
                    "generate",
                    "policy",
                    "",
                    reasoning="I think of rain." if i % 2 else None,
                ),
                Candidate(1, f"{text} Or two.", "revise", "policy", "", parent=0, round=1),
            ],
            critiques=[Critique(0, 1, ["kind-words"], "Say it kindly.", "", "")],
            verdicts=[verdict("judge", 1, 0, readings)],
        )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with hostile texts and a quarantined row."""
    folder = tmp_path_factory.mktemp("hostile")
    run = folder / "run"
    run.mkdir()
    part = traces.write_part(run, 0, list(samples()))
    failure = Failure(300, None, "failed", "judge", "<b>no</b> label", "What it said", False)
    line = msgspec.json.encode(failure) + b"\n"
    (run / "quarantine.jsonl").write_bytes(line)
    Manifest(
        *("", "", 512),
        parts=1,
        rows=301,
        samples=300,
        quarantined=1,
        quarantine_bytes=len(line),
        trace_parts=[part],
        reasons={"judge: <b>no</b> label": 1},
        state="traced",
    ).save(run)
    recipe = load(make_project(folder) / "recipe.yaml")
    return write_report([(run, recipe)], folder / "page.html")


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    assert program is not None
    with browser.browser(program) as page:
        yield page


@pytest.fixture
def page(tab: Page, written: Path) -> Iterator[Page]:
    """The page in a window of a laptop. Afterward: it obeyed no text, threw nothing, asked for nothing."""
    tab.errors.clear()
    tab.size(1280, 800)
    tab.open(written)
    yield tab
    assert tab.js("window.obeyed") is None
    assert tab.errors == []
    assert {url.partition("#")[0] for url in tab.requests} == {written.absolute().as_uri()}


def detail(page: Page) -> str:
    return page.js("document.getElementById('detail').textContent")


def open_sample(page: Page, id: str) -> None:
    page.js(f"location.hash = '#id={id}'")
    page.wait(f"document.querySelector('#detail .bar-top a')?.textContent === '{id}'")


@pytest.mark.parametrize("id", ["script", "ending"])
def test_markup_of_models_is_text(page: Page, id: str) -> None:
    open_sample(page, id)
    assert detail(page).count(HOSTILE[id]) >= 2
    assert page.js("document.querySelectorAll('#detail img, #detail script').length") == 0


def test_controls_are_shown_by_their_names(page: Page) -> None:
    open_sample(page, "override")
    assert "abcU+202EdefU+2066ghi" in detail(page)
    open_sample(page, "nul")
    assert "beforeU+0000afterU+001B[31m" in detail(page)
    assert not set(detail(page)) & set("\x00\x1b\u202e\u2066")


def test_a_line_of_a_megabyte_is_folded(page: Page) -> None:
    open_sample(page, "long")
    assert 0 < detail(page).count("z") < 20_000
    page.click("#detail .answer button")
    page.wait("document.getElementById('detail').textContent.length > 50000")
    assert "of 1,000,000 characters" in detail(page)
    element = "document.getElementById('detail')"
    assert page.js(f"{element}.scrollWidth <= {element}.clientWidth")


def test_writing_from_right_to_left_begins_right(page: Page) -> None:
    open_sample(page, "arabic")
    said = "document.querySelector('#detail .prompt .said')"
    assert page.js(f"getComputedStyle({said}).direction") == "rtl"
    assert (
        page.js("getComputedStyle(document.querySelector('#detail .critique .said')).direction")
        == "ltr"
    )


def test_keys(page: Page) -> None:
    page.press("/")
    assert page.js("document.activeElement.id") == "search"
    page.type("rains 77 days")
    page.wait("document.getElementById('found').textContent === '1 of 301'")
    page.press("Enter")
    page.wait("location.hash === '#id=plain-77'")
    assert "It rains 77 days a year." in detail(page)
    page.press("Escape")
    page.wait("document.getElementById('browser').classList.contains('closed')")
    page.press("/")
    page.press("Escape")  # empties the search
    page.wait("document.getElementById('found').textContent === '301 of 301'")
    page.press("Escape")  # leaves it
    selected = "document.querySelector('.row[aria-selected=true] bdi')?.textContent"
    page.press("j")
    first = page.wait(selected)
    page.press("j")
    page.wait(f"{selected} !== {first!r}")
    page.press("k")
    page.wait(f"{selected} === {first!r}")


def test_filters_and_orders(page: Page) -> None:
    def choose(id: str, value: str) -> None:
        select = f"document.getElementById('{id}')"
        page.js(f"({select}.value = '{value}', {select}.onchange(), null)")

    choose("tag", "weather")
    page.wait("document.getElementById('found').textContent === '294 of 301'")
    page.click("#flipped")
    flipped = sum(
        any(v.is_consistent is False for v in s.verdicts) for s in samples() if s.index > 5
    )
    page.wait(f"document.getElementById('found').textContent === '{flipped} of 301'")
    choose("order", "margin")
    page.wait("document.querySelector('.row bdi').textContent.startsWith('plain-')")
    choose("tag", "")
    page.js("location.hash = '#reason=revision-not-preferred'")
    lost = sum(s.verdicts[0].p is not None and s.verdicts[0].p < 0.5 for s in samples())
    page.wait(f"document.getElementById('found').textContent === '{lost} of 301'")


def test_a_quarantined_row_is_opened_from_its_reason(page: Page) -> None:
    page.click("#drops a[href*='quarantined']")
    page.wait("document.getElementById('found').textContent === '1 of 301'")
    page.press("Enter")
    page.wait("location.hash === '#id=failed'")
    assert "judge: <b>no</b> label" in detail(page)
    assert "What it said" in detail(page)


def test_revisions_are_marked_and_thoughts_folded(page: Page) -> None:
    open_sample(page, "plain-77")
    added = page.js(
        "[...document.querySelectorAll('#detail ins')].map((e) => e.textContent.trim())"
    )
    assert added == ["Or two."]
    assert "I think of rain." not in detail(page)
    page.click("#detail details summary")
    page.wait("document.getElementById('detail').textContent.includes('I think of rain.')")
    assert "0.900" in detail(page)


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        ("the cat sat", "the dog sat", "=the |-cat|+dog|= sat"),
        ("", "new", "+new"),
        ("a b c d", "b c d e", "-a |=b c d|+ e"),
        ("same", "same", "=same"),
        ("one two three", "four five six", "-one two three|+four five six"),
        ("我喜欢茶", "我喜欢咖啡", "=我喜欢|-茶|+咖啡"),
    ],
)
def test_diff_of_words(page: Page, before: str, after: str, steps: str) -> None:
    found = page.js(f"wordDiff({before!r}, {after!r})")
    assert "|".join(kind + text for kind, text in found) == steps
    assert "".join(text for kind, text in found if kind != "+") == before
    assert "".join(text for kind, text in found if kind != "-") == after


def test_phone(page: Page, written: Path) -> None:
    page.size(390, 800)
    page.open(written)
    assert page.js("document.documentElement.scrollWidth") == 390
    assert page.js("getComputedStyle(document.getElementById('detail')).display") == "none"
    page.click(".row:nth-child(4)")
    page.wait("location.hash === '#id=nul'")
    assert page.js("getComputedStyle(document.getElementById('list')).display") == "none"
    assert page.js("document.documentElement.scrollWidth") == 390
    page.click("#detail .close")
    page.wait("getComputedStyle(document.getElementById('list')).display !== 'none'")


def test_dark(page: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.js(background)
    page.size(1280, 800, is_dark=True)
    assert (light, page.js(background)) == ("rgb(252, 252, 251)", "rgb(20, 22, 23)")
