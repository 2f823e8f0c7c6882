"""The report of a run: one HTML file, from its traces."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from factory.cli import main as cli
from factory.core.errors import FactoryError, RecipeError
from factory.core.records import Candidate, Critique, Failure, Sample, Score, Verdict
from factory.pipeline import traces
from factory.pipeline.fates import Fates
from factory.pipeline.manifest import Manifest
from factory.pipeline.manifest import read as load_manifest
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import read_samples
from factory.recipe.load import load
from factory.report import entries, pack, report
from factory.report.charts import bins, histogram, number
from factory.report.entries import Entry, Shown
from factory.report.report import write_report
from tests.conftest import make_project
from tests.fakes import FakeEngine


def run_in(out: Path, project: Path, *overrides: str) -> Path:
    """A finished run of the project's recipe."""
    recipe = load(project / "recipe.yaml", overrides)
    engines = {"policy": FakeEngine()}
    asyncio.run(run_async(recipe, out, engines=engines, progress=Progress(is_quiet=True)))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tests only read."""
    folder = tmp_path_factory.mktemp("project")
    return run_in(folder / "run", make_project(folder))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run to change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def page_of(*runs: Path, out: Path) -> str:
    write_report([(run, load(run / "recipe.yaml")) for run in runs], out)
    return out.read_text(encoding="utf-8")


def unpacked(page: str, id: str) -> list[Any]:
    """The lines of a block or an index inside the page."""
    found = re.search(rf'<script type="text/plain" id="{id}"[^>]*>([A-Za-z0-9+/=]*)</script>', page)
    assert found is not None
    return [json.loads(line) for line in gzip.decompress(base64.b64decode(found[1])).splitlines()]


def sample(*candidates: Candidate, **more: Any) -> Sample:
    return Sample(
        "s", 0, [{"role": "user", "content": "Why?"}], candidates=list(candidates), **more
    )


def entry_of(whole: Sample, project: Path, tmp_path: Path) -> Entry:
    return entries.of_sample(whole, Fates(tmp_path, load(project / "recipe.yaml")))[1]


FIRST = Candidate(0, "one two three", "generate", "policy", "")
REVISED = Candidate(1, "one", "revise", "policy", "", parent=0, round=1)


def test_page_holds_the_run_and_its_samples(run: Path, tmp_path: Path) -> None:
    page = page_of(run, out=tmp_path / "page.html")
    manifest = load_manifest(run)
    assert manifest is not None
    for view in manifest.views:
        assert f"<b>{view['rows']}</b><span>rows of {view['view']}</span>" in page
        for reason in view["drops"]:
            assert f'href="#reason={reason}"' in page
    for id in ("kind-words", "plain-words"):
        assert f'href="#principle={id}"' in page
    samples = list(read_samples(run))
    shown = unpacked(page, "block-0-0")
    assert [each["id"] for each in shown] == [each.id for each in samples]
    assert [c["text"] for c in shown[3]["candidates"]] == [c.text for c in samples[3].candidates]
    [index] = unpacked(page, "index-0")
    assert [each[0] for each in index] == [each.id for each in samples]
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)


def test_the_same_run_makes_the_same_page(run: Path, tmp_path: Path) -> None:
    assert page_of(run, out=tmp_path / "a.html") == page_of(run, out=tmp_path / "b.html")


def test_names_of_users_are_escaped_and_controls_shown(run: Path, tmp_path: Path) -> None:
    manifest = load_manifest(run)
    assert manifest is not None
    hostile = "generate: </script><script>alert(1)</script>\u202e\x00"
    manifest.reasons = {hostile: 3}
    manifest.save(run)
    page = page_of(run, out=tmp_path / "page.html")
    assert "<script>alert(1)" not in page
    assert not set("\u202e\x00") & set(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\x00" in page


def test_two_runs_stand_side_by_side(run: Path, project: Path, tmp_path: Path) -> None:
    other = run_in(tmp_path / "b", project, "seed=8", "source.limit=5")
    page = page_of(run, other, out=tmp_path / "page.html")
    assert page.count('<div class="pair">') >= 4
    assert len(unpacked(page, "block-0-0")) == 12
    assert len(unpacked(page, "block-1-0")) == 5


def test_entry_by_hand(project: Path, tmp_path: Path) -> None:
    verdicts = [
        Verdict("one", 1, 0, 0.7, 0.1, True, 1.0, ["kind-words"], []),
        Verdict("other", 0, 1, 0.55, 0.6, False, 0.5, [], []),
        Verdict("silent", 1, 0, None, None, None, None, [], []),
    ]
    whole = sample(
        FIRST,
        REVISED,
        verdicts=verdicts,
        scores=[Score("rule", 0, 0.0), Score("rule", 1, 1.0), Score("unread", 1, None)],
        critiques=[Critique(0, 1, ["kind-words"], "rude", "", "")],
    )
    found = entry_of(whole, project, tmp_path)
    assert (found.is_flipped, found.margin, found.change) == (True, 0.1, -2)
    # Judge one and the rule prefer the revision, the other judge does not: 2 of 3 pairs of scorers.
    assert found.disagreement == round(2 / 3, 4)
    assert found.principles == ["kind-words"]


def test_margin_by_scores_and_nothing_known(project: Path, tmp_path: Path) -> None:
    scored = sample(FIRST, REVISED, scores=[Score("r", 0, 0.25), Score("r", 1, 1.0)])
    assert entry_of(scored, project, tmp_path).margin == 0.75
    empty = entry_of(sample(FIRST), project, tmp_path)
    assert (empty.margin, empty.change, empty.disagreement) == (None, None, None)


def test_too_many_samples_are_thinned_evenly() -> None:
    packing = pack.Pack(budget=6_000)
    for i in range(64 * 40):
        shown = Shown(id=f"p{i}", index=i, prompt=[{"role": "user", "content": f"{i * 7919}"}])
        packing.add(shown, Entry(shown.id, i, "", [], [], [], False, None, None, None))
    packed = packing.finish()
    assert sum(map(len, packed.blocks)) <= 6_000
    assert (packed.all, packed.held) == (2560, 64 * len(packed.blocks))
    lines = gzip.decompress(base64.b64decode(packed.listing)).splitlines()
    first = [json.loads(line)[0][1] for line in lines]
    steps = {b - a for a, b in pairwise(first)}
    assert len(steps) == 1
    assert first[0] == 0


def test_a_text_without_end_is_cut_and_says_so(project: Path, tmp_path: Path) -> None:
    long = "x" * (entries._MOST_TEXT + 5)
    whole = sample(Candidate(0, long, "generate", "policy", ""))
    shown, _ = entries.of_sample(whole, Fates(tmp_path, load(project / "recipe.yaml")))
    assert shown.candidates[0].text.endswith("x\n[5 more characters are in the traces]")
    assert whole.candidates[0].text == long


def test_quarantined_rows_are_found_by_the_reason_of_the_manifest() -> None:
    failure = Failure(3, 4, None, "source", "line 4: not JSON", "{oops", True)
    shown, entry = entries.of_failure(failure)
    assert (shown.error, shown.prompt[0]["content"]) == ("source: line 4: not JSON", "{oops")
    assert entry.reasons == ["quarantined: source: line #: not JSON"]


def test_histogram_by_hand() -> None:
    assert bins([0.0, 0.5, 1.0], 0, 1).counts == [1] + [0] * 11 + [1] + [0] * 10 + [1]
    assert bins([2.0, 2.0]) == (2.0, 2.0, [2])
    assert "<title>0.5 to 0.542: 1 a&lt;b</title>" in histogram(bins([0.0, 0.5, 1.0]), what="a<b")
    assert [number(x) for x in (0, 1234.5, 0.00123, -2.5)] == ["0", "1,234", "0.00123", "-2.5"]


def test_an_alignment_shows_its_curves_and_win_rates(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "round-1" / "run"))
    rate = {"rate": 0.75, "low": 0.625, "high": 0.875}
    rounds = [{"number": 1, "evaluation": {"against": {"first": rate}}}]
    done = {"rounds": rounds, "best": {"why": "round 1 <b>won</b>"}}
    (tmp_path / "align.json").write_text(json.dumps(done))
    (tmp_path / "round-1" / "evaluation.json").write_text("{}")
    model = tmp_path / "round-1" / "models" / "dpo"
    model.mkdir(parents=True)
    lines = ({"step": step, "loss": 1 / step} for step in (1, 2, 4))
    (model / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run, out=tmp_path / "page.html")
    assert "round 1 against the first: 75% (62% to 88%)" in page
    assert "round 1 &lt;b&gt;won&lt;/b&gt;" in page
    assert "<h3>dpo</h3>" in page
    assert "<title>4 steps: 0.25</title>" in page


# -- the commands -------------------------------------------------------------------------------


def test_a_run_that_is_going_has_a_report(run: Path, tmp_path: Path) -> None:
    manifest = load_manifest(run)
    assert manifest is not None
    manifest.state, manifest.views = "running", []
    manifest.save(run)
    assert "running so far" in page_of(run, out=tmp_path / "page.html")


def test_a_run_without_a_sample_has_a_report(run: Path, tmp_path: Path) -> None:
    traces.drop_parts_from(run, 0)
    Manifest("", "", 1).save(run)
    assert unpacked(page_of(run, out=tmp_path / "page.html"), "index-0") == []


def test_what_cannot_be_made_is_said(run: Path, project: Path, tmp_path: Path) -> None:
    recipe = load(project / "recipe.yaml")
    with pytest.raises(RecipeError, match="holds no run"):
        write_report([(tmp_path, recipe)], tmp_path / "page.html")
    (tmp_path / "file").touch()
    with pytest.raises(FactoryError, match="cannot be written"):
        write_report([(run, recipe)], tmp_path / "file" / "page.html")


def test_report_writes_where_it_is_told(
    run: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["factory", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    code, out, _ = call("report", run)
    assert (code, out.splitlines()[-1]) == (0, str(run / "report.html"))
    code, out, _ = call("report", run, run, "-o", tmp_path / "both.html")
    assert (code, out.splitlines()[-1]) == (0, str(tmp_path / "both.html"))
    other = Path(shutil.copytree(run, tmp_path / "other"))
    code, out, _ = call("report", run, other)
    assert (code, out.splitlines()[-1]) == (0, str(run / "report-with-other.html"))
    aligned = tmp_path / "aligned"
    for round_ in (9, 10):
        shutil.copytree(run, aligned / f"round-{round_}" / "run")
    (aligned / "align.json").write_text("{}")
    code, out, _ = call("report", aligned)
    assert (code, out.splitlines()[-1]) == (0, str(aligned / "round-10/run/report.html"))
    code, _, err = call("report", tmp_path / "nothing")
    assert (code, "holds no run" in err) == (2, True)
    code, _, err = call("report", run, "-o", tmp_path)
    assert (code, "is a folder; name a file" in err) == (2, True)
    # `factory run` on a finished run does nothing, but writes its page again.
    (run / "report.html").unlink()
    finished = load_manifest(run)
    monkeypatch.setattr("factory.pipeline.trainings.run_with_trainings", lambda *_, **__: finished)
    code, out, _ = call("run", project / "recipe.yaml", "-o", run)
    assert (code, out.splitlines()[-1]) == (0, str(run / "report.html"))
    (run / "report.html").unlink()
    code, out, _ = call("run", project / "recipe.yaml", "-o", run, "--no-report")
    assert (code, (run / "report.html").exists(), "report.html" in out) == (0, False, False)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a\x1b[31m")

    monkeypatch.setattr(report, "write_report", fail)
    code, out, err = call("run", project / "recipe.yaml", "-o", run)
    assert (code, "no report was written: ZeroDivisionError: a\\x1b[31m" in err) == (0, True)
