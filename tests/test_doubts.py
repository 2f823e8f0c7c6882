"""Reasons to doubt a dataset, in words: from a view's report, from rows, and in the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from factory.core.records import Candidate, Reading, Sample, Verdict
from factory.export.export import export
from factory.export.preference import PreferenceView
from factory.stats.noise import doubts, doubts_of_rows


def counted(rows: int = 100, **more: Any) -> dict[str, Any]:
    return {"rows": rows, "spreads": {}, "judges": {}, "agreements": [], **more}


def judge(verdicts: int = 100, unparsed: int = 0, flips: int = 0) -> dict[str, Any]:
    read = verdicts - unparsed
    return {
        "verdicts": verdicts,
        "unparsed": unparsed,
        "flips": flips,
        "flip_rate": flips / read if read else None,
    }


def test_a_dataset_without_reasons_to_doubt_it_has_none() -> None:
    spread = {"agreement": {"mean": 0.8}}
    quiet = counted(50, spreads=spread, judges={"judge": judge(flips=49)})
    assert doubts(quiet) == []
    assert doubts(counted(0)) == []  # an empty dataset is said otherwise


def test_few_rows_are_said_from_49_down() -> None:
    assert doubts(counted(50)) == []
    [line] = doubts(counted(49))
    assert line.startswith("49 rows, fewer than 50")
    assert doubts(counted(1))[0].startswith("1 row,")


def test_flips_as_often_as_a_coins_and_nearly_always_are_said_differently() -> None:
    [coin] = doubts(counted(judges={"judge": judge(verdicts=120, unparsed=20, flips=50)}))
    assert "judge judge: 50 of 100 verdicts (50%) changed with the order" in coin
    assert "a coin's" in coin
    [place] = doubts(counted(judges={"judge": judge(flips=90)}))
    assert "90 of 100 verdicts (90%)" in place
    assert "goes by the place" in place
    assert doubts(counted(judges={"judge": judge(verdicts=9, flips=9)})) == []  # too few to say


def test_agreement_of_one_half_unread_verdicts_and_judges_that_agree_by_chance_are_said() -> None:
    [half] = doubts(counted(spreads={"agreement": {"mean": 0.5}}))
    assert "agree on the chosen answer in 50% on average" in half
    [unread] = doubts(counted(judges={"small": judge(unparsed=50)}))
    assert unread.startswith("judge small: 50 of 100 verdicts could not be read")
    two = {"first": "a", "second": "b", "comparisons": 40, "share": 0.45, "kappa": -0.1}
    [chance] = doubts(counted(agreements=[two]))
    assert chance.startswith("judges a and b agree on 45% of 40 pairs, no more than by chance")
    assert doubts(counted(agreements=[two | {"kappa": 0.2}])) == []


def test_a_judges_name_stays_on_its_line() -> None:
    [line] = doubts(counted(judges={"a\nb": judge(flips=100)}))
    assert "\n" not in line
    assert line.startswith("judge a b:")


def flipped(index: int) -> Sample:
    """Preferred by 0.6 on average, each order another way."""
    readings = [
        Reading("kind", False, 0.3, 1.0, "c1"),
        Reading("kind", True, 0.9, 1.0, "c2"),
    ]
    both = Verdict("judge", 1, 0, 0.6, 0.6, False, 0.5, ["kind"], readings)
    answers = [
        Candidate(0, "No.", "generate", "policy", "c"),
        Candidate(1, "Yes, you can.", "revise", "policy", "c", parent=0, round=1),
    ]
    prompt: Any = [{"role": "user", "content": f"Question {index}?"}]
    return Sample(f"s{index}", index, prompt, candidates=answers, verdicts=[both])


def test_the_card_and_a_training_say_the_same_of_rows_and_agreement(tmp_path: Path) -> None:
    from datasets import load_from_disk

    samples = [flipped(i) for i in range(12)]
    [report] = export([PreferenceView()], lambda: iter(samples), tmp_path, {})
    few, agreement, flips = doubts(msgspec.to_builtins(report))
    assert few.startswith("12 rows, fewer than 50")
    assert "12 of 12 verdicts (100%)" in flips
    dataset = load_from_disk(str(tmp_path / "preference"))
    assert doubts_of_rows(dataset) == [few, agreement]
    assert doubts_of_rows(dataset.remove_columns("agreement")) == [few]
    card = (tmp_path / "preference" / "README.md").read_text(encoding="utf-8")
    section = card.split("## Reasons to doubt it\n\n")[1].split("\n\n##")[0]
    assert section == f"- {few}\n- {agreement}\n- {flips}"
