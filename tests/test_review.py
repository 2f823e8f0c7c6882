"""`factory review`: which pairs come first, what the page may know, and what a kill or a full disk costs."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.testing

from factory.cli.main import app as command_line
from factory.cli.runs import export as export_command
from factory.core.errors import FactoryError, RecipeError
from factory.export.decisions import line_of, newest, path_of, read_file, read_run
from factory.export.write import rows_in
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from factory.review.exchange import export_pairs, import_decisions
from factory.review.journal import opened, reviewer_name
from factory.review.queue import Item, Wanted, in_queue, pairs_of
from factory.review.session import Answer, Refused, Session, left_of
from tests.conftest import ROOT
from tests.fakes import FakeEngine
from tests.reviewing import asked, judged, made_run, served, session_of


def items_of(run: Path, share: float = 0.0, **wanted: Any) -> list[Item]:
    recipe = load(run / "recipe.yaml", trains=False)
    return in_queue(pairs_of(run, recipe, Wanted(**wanted)), share)


def ids(items: list[Item]) -> list[str]:
    return [item.key[0] for item in items]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Eight pairs; the judge is surer of each than of the one before."""
    samples = [judged(i, 0.55 + i / 20, tags=["odd"] if i % 2 else []) for i in range(8)]
    return made_run(tmp_path / "run", samples)


@pytest.fixture
def session(run: Path) -> Iterator[Session]:
    with opened(run, "anna") as journal:
        yield session_of(run, journal)


def decide(session: Session, choice: Any, **more: Any) -> str:
    """Decide the next pair. Returns its sample's id."""
    pair = session.state()["pair"]
    session.decide(Answer(pair["pair"], choice, **more))
    return str(pair["id"])


# -- which pairs, and in which order


def test_flips_come_first_and_then_the_least_sure(tmp_path: Path) -> None:
    ps = {"sure": 0.9, "tie": 0.5, "flip": 0.8, "small-flip": 0.6, "near": 0.45}
    samples = [
        judged(i, p, is_consistent="flip" not in name) for i, (name, p) in enumerate(ps.items())
    ]
    for sample, name in zip(samples, ps, strict=True):
        sample.id = name
    run = made_run(tmp_path / "run", samples)
    assert ids(items_of(run)) == ["small-flip", "flip", "tie", "near", "sure"]


def test_a_share_is_drawn_at_random_and_spread_evenly(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(i, 0.5 + (i + 1) / 500) for i in range(200)])
    items = items_of(run, 0.25)
    drawn = [item for item in items if item.is_random]
    assert 30 <= len(drawn) <= 70
    assert [item.is_random for item in items[:12]] == [False, False, False, True] * 3
    assert len(set(ids(items))) == 200
    # They are drawn from sure and unsure ones alike.
    halves = Counter(int(item.key[0][1:]) >= 100 for item in drawn)
    assert min(halves.values()) >= 10
    rest = [int(item.key[0][1:]) for item in items if not item.is_random]
    assert rest == sorted(rest)
    assert not any(item.is_random for item in items_of(run, 0.0))
    assert all(item.is_random for item in items_of(run, 1.0))


def test_pairs_that_the_views_drop_for_want_of_evidence_are_among_them(tmp_path: Path) -> None:
    samples = [judged(0, 0.5), judged(1, 0.51), judged(2, 0.9), judged(3, 0.9, "same", "same")]
    run = made_run(tmp_path / "run", samples, min_margin=0.1)
    assert [(i.key[0], i.label in ("a", "b")) for i in items_of(run)] == [
        ("p0", False),
        ("p1", True),
        ("p2", True),
    ]


def test_pairs_are_chosen_by_id_tag_and_principle(run: Path) -> None:
    assert ids(items_of(run, id="p3")) == ["p3"]
    assert ids(items_of(run, tag="odd")) == ["p1", "p3", "p5", "p7"]
    assert len(items_of(run, principle="kind-words")) == 8
    with pytest.raises(RecipeError, match=r"the tag 'od'; did you mean 'odd'\? \(have: odd\)"):
        items_of(run, tag="od")
    with pytest.raises(RecipeError, match=r"the principle 'plain-words'.* \(have: kind-words\)"):
        items_of(run, principle="plain-words")
    with pytest.raises(RecipeError, match="meets every condition given"):
        items_of(run, id="p2", tag="odd")


def test_a_run_without_a_view_of_pairs_says_what_to_add(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [judged(0, 0.5)])
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe[: recipe.index("views:")] + "views: [{kind: sft}]\n")
    with pytest.raises(RecipeError, match="has no view of pairs to review; add"):
        items_of(run)


def test_the_pairs_of_a_run_of_several_parts_are_found_again(
    project: Path, recipe: Callable[..., Recipe]
) -> None:
    out = project / "out"
    loaded = recipe("part_size=5", "views.0.pairs=revision_vs_initial")
    engines = {"policy": FakeEngine()}
    asyncio.run(run_async(loaded, out, engines=engines, progress=Progress(is_quiet=True)))
    items = items_of(out, 0.2)
    assert len(items) == 24  # two answers to each of twelve prompts, each with its revision
    with opened(out, "anna") as journal:
        session = Session(out, 5, items, journal, "anna", loaded.constitution)
        seen = [decide(session, "right") for _ in items]
    assert Counter(seen) == Counter({f"p{i}": 2 for i in range(12)})
    export_command(out, is_reviewed=True)
    assert rows_in(out / "reviewed" / "preference") == 24
    before = rows_in(out / "datasets" / "preference")
    assert 0 < before < 24


# -- blindness


def test_what_is_shown_tells_nothing_of_the_judge(tmp_path: Path) -> None:
    """The same bytes reach the page, whatever the judge said and whoever wrote an answer."""
    shown = []
    for p, origin, place in ((0.9, "revise", tmp_path / "1"), (0.1, "generate", tmp_path / "2")):
        of = judged(0, p)
        of.candidates[1].origin = origin
        with opened(run := made_run(place, [of]), "anna") as journal:
            shown.append(msgspec.json.encode(session_of(run, journal).state()))
    assert shown[0] == shown[1]


def test_the_side_depends_on_reviewer_and_pair(run: Path) -> None:
    keys = [item.key for item in items_of(run)]
    sides = {name: [left_of(name, key) for key in keys] for name in ("anna", "bo")}
    assert sides["anna"] != sides["bo"]
    assert set(sides["anna"]) == set(sides["bo"]) == {"a", "b"}
    with opened(run, "anna") as journal:
        session = session_of(run, journal)
        for _ in keys:
            decide(session, "left")
        made = newest(journal.decisions)
    assert [made[key].label for key in keys] == [made[key].left for key in keys] == sides["anna"]


# -- deciding


def test_a_decision_is_on_disk_with_its_texts(run: Path, session: Session) -> None:
    shown = session.state()["pair"]
    decide(session, "right", note=" curt ")
    [made] = read_file(path_of(run, "anna"))
    chosen = made.response_a if made.label == "a" else made.response_b
    assert chosen == shown["right"]["text"]
    assert (made.note, made.reviewer, made.prompt) == ("curt", "anna", shown["prompt"])
    assert session.progress() == {"pairs": 8, "decided": 1, "skipped": 0, "elsewhere": 0}


def test_undo_takes_back_the_newest_and_shows_it_again(run: Path, session: Session) -> None:
    first, second = decide(session, "tie"), decide(session, "left", edit="Better.", note="why")
    state = session.undo()
    assert state["pair"]["id"] == second
    assert state["before"] == {"choice": "left", "edit": "Better.", "note": "why"}
    assert session.undo()["pair"]["id"] == first
    with pytest.raises(Refused, match="no decision to undo"):
        session.undo()
    assert [d.label for d in read_file(path_of(run, "anna"))][2:] == ["undone", "undone"]
    assert decide(session, "both_bad") == first


def test_skipped_pairs_come_again_at_the_end(session: Session) -> None:
    order = [decide(session, "skip" if i in (1, 4) else "tie") for i in range(8)]
    assert session.progress()["skipped"] == 2
    assert [decide(session, "skip"), decide(session, "left")] == [order[1], order[4]]
    assert decide(session, "right") == order[1]
    assert session.state()["pair"] is None


@pytest.mark.parametrize(
    ("edit", "message"), [(" \n", "is blank"), ("{other} ", "is the other answer")]
)
def test_an_edit_that_makes_no_pair_is_refused(session: Session, edit: str, message: str) -> None:
    other = session.state()["pair"]["right"]["text"]
    with pytest.raises(Refused, match=message):
        decide(session, "left", edit=edit.format(other=other))
    with pytest.raises(Refused, match="only the better answer"):
        decide(session, "tie", edit="Better.")
    assert session.progress()["decided"] == 0


def test_an_edit_without_a_change_is_none(run: Path, session: Session) -> None:
    decide(session, "left", edit=session.state()["pair"]["left"]["text"])
    assert read_file(path_of(run, "anna"))[0].edit is None


def test_a_pair_is_decided_once(session: Session) -> None:
    pair = session.state()["pair"]["pair"]
    session.decide(Answer(pair, "tie"))
    with pytest.raises(Refused, match="decided already, in another tab"):
        session.decide(Answer(pair, "left"))
    with pytest.raises(Refused, match="not in the review"):
        session.decide(Answer("unknown", "left"))


def test_a_review_goes_on_where_it_was_left(run: Path) -> None:
    with opened(run, "anna") as journal:
        done = {decide(session_of(run, journal), "tie") for _ in range(3)}
    with opened(run, "anna") as journal:
        assert {decide(session_of(run, journal), "tie") for _ in range(5)}.isdisjoint(done)
    with opened(run, "bo") as journal:
        assert session_of(run, journal, "bo").progress()["decided"] == 0


def test_traces_made_again_meanwhile_are_noticed(run: Path, session: Session) -> None:
    pair = session.state()["pair"]["pair"]
    (run / "traces" / "part-00000.parquet").unlink()
    with pytest.raises(FactoryError, match="changed while they were reviewed"):
        session.decide(Answer(pair, "left"))


# -- agreement


def test_agreement_with_the_judge_and_another_reviewer(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.stats.bootstrap._RESAMPLES", 50)
    items = items_of(run, 0.5)
    with opened(run, "bo") as journal:
        bo = session_of(run, journal, "bo", 0.5)
        for _ in range(8):
            decide(bo, "tie")
    with opened(run, "anna") as journal:
        anna = session_of(run, journal, "anna", 0.5)
        for number, item in enumerate(items):  # six as the judge, one against it, one tie
            side = "left" if item.label == left_of("anna", item.key) else "right"
            other = "right" if side == "left" else "left"
            decide(anna, [side, other, "both_bad"][max(0, number - 5)])
        drawn, all_pairs, with_bo = anna.agreement()
    assert drawn.pairs == sum(item.is_random for item in items)
    assert (all_pairs.pairs, all_pairs.same.value) == (8, 6 / 8)
    assert (with_bo.other, with_bo.pairs, with_bo.same.value) == ("bo", 8, 1 / 8)
    assert with_bo.text() == "bo: the same on 12% of 8 pairs (kappa: from 10 pairs on)"


# -- the file


def test_a_half_written_line_is_cut_off_before_the_next(run: Path) -> None:
    with opened(run, "anna") as journal:
        decide(session_of(run, journal), "tie")
    path = path_of(run, "anna")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with opened(run, "anna") as journal:
        assert len(journal.decisions) == 1
        decide(session_of(run, journal), "left")
    assert len(read_file(path)) == 2
    assert path.read_bytes().startswith(whole)


def test_a_line_that_lacks_only_its_end_is_kept(run: Path) -> None:
    with opened(run, "anna") as journal:
        decide(session_of(run, journal), "tie")
    path = path_of(run, "anna")
    path.write_bytes(path.read_bytes()[:-1])
    with opened(run, "anna") as journal:
        decide(session_of(run, journal), "left")
    assert [d.label == "tie" for d in read_file(path)] == [True, False]


def test_a_second_review_of_one_reviewer_is_refused(run: Path) -> None:
    code = "import sys; from pathlib import Path; from factory.review.journal import opened\n"
    code += "with opened(Path(sys.argv[1]), 'anna'): print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with (
            pytest.raises(FactoryError, match=r"another factory process .*use another --reviewer"),
            opened(run, "anna"),
        ):
            pass
        with opened(run, "bo"):
            pass
        other.stdin.write(b"\n")
        other.stdin.close()
    with opened(run, "anna"):
        pass


def test_a_full_disk_records_nothing_and_the_next_try_does(run: Path, session: Session) -> None:
    decide(session, "tie")
    path = path_of(run, "anna")
    whole = path.read_bytes()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, hard[1]))  # half a line fits
    try:
        with pytest.raises(OSError, match="File too large"):
            decide(session, "left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, hard)
    assert path.read_bytes() == whole
    assert session.progress()["decided"] == 1
    decide(session, "left")
    assert len(read_file(path)) == 2


def test_a_deleted_file_is_noticed(run: Path, session: Session) -> None:
    path_of(run, "anna").unlink()
    with pytest.raises(FactoryError, match="was deleted meanwhile"):
        decide(session, "tie")


@pytest.mark.parametrize("name", ["", "../bo", ".bo", "a/b", "a b", "x" * 65, "a\0"])
def test_a_reviewers_name_is_a_plain_one(name: str) -> None:
    with pytest.raises(RecipeError, match="expected letters, digits, dots"):
        reviewer_name(name)


def test_no_acknowledged_decision_is_lost_by_kills(tmp_path: Path) -> None:
    decisions, kills = 60, 5
    run = made_run(tmp_path / "run", [judged(i, 0.5 + i / 500) for i in range(decisions)])
    chance = random.Random(1)
    target = subprocess.Popen(
        [sys.executable, "-m", "tests.review_target", str(run)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert target.stdin is not None
    assert target.stdout is not None
    acknowledged: dict[str, str] = {}
    for number in range(kills + 1):
        print(file=target.stdin, flush=True)
        pid, address = target.stdout.readline().split()
        goal = decisions * (number + 1) // (kills + 1)
        try:
            state = asked(address, "pair")[1]
            while state["pair"] is not None:
                if len(acknowledged) == goal and number < kills:
                    delay = chance.random() * 0.01
                    threading.Timer(delay, os.kill, (int(pid), signal.SIGKILL)).start()
                pair, choice = state["pair"], chance.choice(["left", "right", "tie", "both_bad"])
                status, state, _ = asked(
                    address, "decide", {"pair": pair["pair"], "choice": choice}
                )
                assert status == 200
                acknowledged[pair["id"]] = choice
        except (OSError, http.client.HTTPException):
            continue  # killed
        os.kill(int(pid), signal.SIGKILL)
    target.stdin.close()
    target.wait()
    made = newest(read_file(path_of(run, "anna")))
    kept = {key[0]: d.label if d.label not in ("a", "b") else d for key, d in made.items()}
    assert len(kept) == decisions
    for name, choice in acknowledged.items():
        found = kept[name]
        if isinstance(found, str):
            assert found == choice
        else:
            assert ("left" if found.label == found.left else "right") == choice
    assert len(acknowledged) >= decisions - kills


# -- the server


def test_a_decision_over_http(session: Session) -> None:
    with served(session) as address:
        _, state, headers = asked(address, "pair")
        assert headers["cache-control"] == "no-store"
        status, after, _ = asked(
            address, "decide", {"pair": state["pair"]["pair"], "choice": "left", "note": "x"}
        )
        assert (status, after["progress"]["decided"]) == (200, 1)
        assert after["pair"]["pair"] != state["pair"]["pair"]
        assert asked(address, "undo", {})[1]["before"]["choice"] == "left"
        assert asked(address, "agreement")[0] == 200


def test_the_page_may_load_its_own_files_alone(session: Session) -> None:
    with served(session) as address:
        for name, kind in (("", "html"), ("review.css", "css"), ("review.js", "javascript")):
            status, text, headers = asked(address, name)
            assert status == 200
            assert kind in headers["content-type"]
            assert "http://" not in text
            assert "https://" not in text
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
        assert "innerHTML" not in asked(address, "review.js")[1]


def test_requests_without_the_token_or_for_another_host_are_refused(session: Session) -> None:
    with served(session) as address:
        base, token = address.rstrip("/").rsplit("/", 1)
        port = base.rsplit(":", 1)[1]
        for path in ("/", "/pair", f"/{token}x/pair", f"/{token[:-1]}/pair", f"/{token}", "//pair"):
            assert asked(base + path)[0] == 404, path
        assert asked(address, "pair", Host=f"localhost:{port}")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}9", ""):
            assert asked(address, "pair", Host=host)[0] == 421, host
        own = f"http://127.0.0.1:{port}"
        assert asked(address, "undo", {}, Origin="https://evil.example")[0] == 403
        assert asked(address, "undo", {}, Origin="null")[0] == 403
        assert asked(address, "pair", Origin=own)[0] == 200
        assert asked(address, "decide")[0] == 405  # by GET
        assert asked(address, "../pair")[0] == 404


def test_a_wrong_request_is_refused_in_words(session: Session) -> None:
    pair = session.state()["pair"]["pair"]
    with served(session) as address:
        for value in ("text", {"pair": pair}, {"pair": pair, "choice": "up"}, {"pair": 1}):
            status, told, _ = asked(address, "decide", value)
            assert (status, told["error"][:14]) == (409, "not a decision")
        lone = {"pair": pair, "choice": "left", "note": "\ud800"}
        assert asked(address, "decide", lone)[0] == 409
        huge = {"pair": pair, "choice": "left", "edit": "x" * (17 << 20)}
        assert "too large" in asked(address, "decide", huge)[1]["error"]
    assert session.progress()["decided"] == 0


# -- elsewhere and back


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def filled(path: Path, *labels: str | None, **more: Any) -> None:
    """Write the file again with these labels on its first lines."""
    rows = lines_of(path)
    for row, label in zip(rows, labels, strict=False):
        row |= {"label": label, **more}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_pairs_are_decided_elsewhere_and_taken_back(run: Path, tmp_path: Path) -> None:
    with opened(run, "anna") as journal:
        decide(session_of(run, journal), "tie", note="same")
    out = tmp_path / "away.jsonl"
    items = items_of(run)
    assert export_pairs(run, items, "anna", out) == (8, 1)
    rows = lines_of(out)
    assert [row["label"] for row in rows] == ["tie"] + [None] * 7
    assert ids(items) == [row["prompt_id"] for row in rows]
    secrets = {"p", "preference", "margin", "origin", "chosen"}
    assert secrets.isdisjoint(rows[1])
    filled(out, "tie", "a", "b", "both_bad", "skip")
    found = import_decisions(run, items, out, "bo")
    assert (found.taken, found.known, found.undecided) == ({"bo": 3}, 1, 4)
    assert found.left_out == []
    assert [d.label for d in read_run(run)["bo"].values()] == ["a", "b", "both_bad"]
    assert import_decisions(run, items, out, "bo").known == 4
    with pytest.raises(RecipeError, match="exists and may hold decisions; name another"):
        export_pairs(run, items, "anna", out)


def test_conflicts_and_unknown_pairs_are_named_by_line(run: Path, tmp_path: Path) -> None:
    items = items_of(run)
    out = tmp_path / "away.jsonl"
    export_pairs(run, items, "anna", out)
    filled(out, "a", "a", "a", "a", "a", "a", reviewer="bo")
    import_decisions(run, items[:1], _head(out, 1), "anna")
    rows = [json.dumps(row) for row in lines_of(out)]
    rows[0] = rows[0].replace('"label": "a"', '"label": "b"')
    rows[1] = rows[1].replace('"prompt_id": "', '"prompt_id": "other-')
    rows[2] = "{"
    rows[3] = rows[3].replace('"edit": null', '"edit": " "')
    rows[4] = rows[4].replace('"reviewer": "bo"', '"reviewer": "../bo"')
    rows.append(rows[5].replace('"label": "a"', '"label": "tie"'))
    out.write_text("\n".join(rows))
    found = import_decisions(run, items, out, "anna")
    assert found.taken == {"bo": 1}
    reasons = [line.removeprefix(f"{out}:") for line in found.left_out]
    expected = [
        (2, "has no such pair of prompt_id 'other-"),
        (3, "no decision (Input data was truncated)"),
        (4, "edit: the edited answer is blank"),
        (5, "reviewer '../bo' is no name"),
        (9, "decides otherwise than line 6"),
        (1, "bo decided 'a' on this pair already, and the line says 'b'"),
    ]
    assert len(reasons) == len(expected)
    for reason, (number, part) in zip(reasons, expected, strict=True):
        assert reason.startswith(f"{number}: ")
        assert part in reason


def _head(path: Path, count: int) -> Path:
    head = path.with_suffix(".head")
    head.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    return head


def test_a_decisions_file_of_another_copy_of_the_run_is_imported(run: Path, tmp_path: Path) -> None:
    with opened(run, "anna") as journal:
        session = session_of(run, journal)
        decide(session, "tie")
        session.undo()
        decide(session, "both_bad")
        decide(session, "skip")
    copy = tmp_path / "decisions.jsonl"
    path_of(run, "anna").rename(copy)
    found = import_decisions(run, items_of(run), copy, "bo")
    assert (found.taken, found.left_out) == ({"anna": 1}, [])
    assert [d.label for d in read_run(run)["anna"].values()] == ["both_bad"]


def test_the_command_exports_and_imports(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "away.jsonl"
    runner = typer.testing.CliRunner()

    def said(*words: str) -> str:
        result = runner.invoke(command_line, ["review", str(run), *words], catch_exceptions=False)
        return " ".join(result.output.split())

    told = said("--reviewer", "anna", "--tag", "odd", "--export", str(out))
    assert told.startswith(f"wrote 4 pairs to {out}, 0 of them with anna's decisions")
    filled(out, "a", "tie")
    told = said("--reviewer", "anna", "--import", str(out))
    assert "took 2 decisions of anna 2 lines have no decision next:" in told
    filled(out, "b")
    with pytest.raises(
        FactoryError, match=r"left out 1 of the lines of .*:\n.*:1: anna decided 'a'"
    ):
        said("--reviewer", "anna", "--import", str(out))
    assert line_of(next(iter(read_run(run)["anna"].values())))
