"""The views `reward` and `grpo`, best-of-n, and every view on combined scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from factory.core.records import Candidate, Combination, Message, Sample, Score, StepLabels
from factory.export.export import VIEWS, export
from factory.export.grpo import GrpoView
from factory.export.kto import KtoView
from factory.export.preference import PreferenceView
from factory.export.process import ProcessView
from factory.export.reward import RewardView
from factory.export.sft import SftView
from factory.export.view import View
from tests.viewed import contents, reasons, rows

PROMPT: list[Message] = [{"role": "user", "content": "Can I freeze rice?"}]
PARTS = ("reward/helpful", "reward/harmless")
COMBINED = Combination("reward", dict.fromkeys(PARTS, 0.5))


def scored(*values: float | None, name: str = "quality", texts: Any = "abcdef") -> Sample:
    """A sample with one candidate and one score for each value."""
    return Sample(
        "s0",
        0,
        list(PROMPT),
        candidates=[Candidate(i, texts[i], "generate", "m", "c") for i in range(len(values))],
        scores=[Score(name, i, value) for i, value in enumerate(values)],
    )


def source(*samples: Sample) -> Callable[[], Iterator[Sample]]:
    return lambda: iter(samples)


def load(folder: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(folder))


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


# ---- reward


def test_a_row_has_every_scored_answer_of_the_prompt() -> None:
    assert rows(RewardView(), scored(2.0, -1.5, None, 2.0)) == [
        {
            "prompt": PROMPT,
            "responses": ["a", "b", "d"],
            "scores": [2.0, -1.5, 2.0],
            "finish_reasons": ["stop", "stop", "stop"],
            "prompt_id": "s0",
        }
    ]


def test_cut_answers_are_left_out_of_a_list_and_counted(tmp_path: Path) -> None:
    of = scored(1.0, 2.0, 3.0)
    of.candidates[1].finish_reason = "length"
    [report] = export([RewardView()], source(of), tmp_path, {})
    assert (report.rows, report.notes, report.drops) == (1, {"truncated": 1}, {})
    assert load(tmp_path / "reward")["responses"][0] == ["a", "c"]
    [row] = rows(RewardView(truncated="keep"), of)
    assert row["finish_reasons"] == ["stop", "length", "stop"]
    of.candidates[2].finish_reason = "length"
    assert (rows(RewardView(), of), reasons(RewardView(), of)) == ([], ["truncated"])


def test_blank_dropped_and_repeated_answers_are_left_out() -> None:
    of = scored(1.0, 2.0, 3.0, 4.0, 5.0, texts=["a", " \n", "a ", "d", "e"])
    of.candidates[3].drop_reason = "short"
    (row,) = rows(RewardView(), of)
    assert (row["responses"], row["scores"]) == (["a", "e"], [1.0, 5.0])


@pytest.mark.parametrize(
    "of",
    [
        scored(1.0),
        scored(1.0, None),
        scored(1.0, math.nan),
        scored(1.0, 2.0, texts="aa"),
        scored(1.0, 2.0, texts="a "),
        Sample("s0", 0, list(PROMPT)),
    ],
)
def test_fewer_than_two_scored_answers_make_no_row(of: Sample) -> None:
    assert (rows(RewardView(), of), reasons(RewardView(), of)) == ([], ["too-few-scored"])


def test_how_many_answers_a_row_needs_can_be_said() -> None:
    assert reasons(RewardView(min_responses=3), scored(1.0, 2.0)) == ["too-few-scored"]
    assert rows(RewardView(min_responses=1), scored(1.0))[0]["scores"] == [1.0]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        RewardView(min_responses=0)


def test_which_of_several_scores_must_be_said() -> None:
    of = scored(1.0, 2.0)
    of.scores += [Score("verify", 0, 1.0), Score("verify", 1, 0.0)]
    assert reasons(RewardView(), of) == ["several-scores"]
    assert rows(RewardView(score="verify"), of)[0]["scores"] == [1.0, 0.0]


# ---- grpo


def test_a_prompt_is_a_row_with_what_rewards_need() -> None:
    of = Sample("s0", 0, list(PROMPT), tags=["maths"], reference="1 + 1 = 2\n#### 2")
    assert rows(GrpoView(), of) == [
        {
            "prompt": PROMPT,
            "reference": "1 + 1 = 2\n#### 2",
            "tags": ["maths"],
            "prompt_id": "s0",
        }
    ]


def test_a_reference_can_be_required() -> None:
    of = Sample("s0", 0, list(PROMPT))
    assert rows(GrpoView(), of)[0]["reference"] is None
    assert reasons(GrpoView(needs_reference=True), of) == ["no-reference"]
    of.reference = " "
    assert reasons(GrpoView(needs_reference=True), of) == ["no-reference"]
    of.reference = "2"
    assert len(rows(GrpoView(needs_reference=True), of)) == 1


@pytest.mark.parametrize(
    ("view", "needs"),
    [
        (RewardView(), {"candidates", "score:*"}),
        (RewardView(score="reward"), {"candidates", "score:reward"}),
        (GrpoView(), set()),
    ],
)
def test_needs(view: Any, needs: set[str]) -> None:
    assert view.needs() == needs
    assert VIEWS[view.kind].model_validate(view.model_dump()) == view


# ---- sft: best of n


def best(of: Sample, **options: Any) -> list[str]:
    view = SftView(pick="best", **options)
    return [row["completion"][0]["content"] for row in rows(view, of)]


def test_best_by_a_verifier_with_a_threshold_is_rejection_sampling() -> None:
    right = scored(0.0, 1.0, 1.0, name="verify")
    assert best(right, score="verify", min_score=1.0) == ["b"]
    view = SftView(pick="best", score="verify", min_score=1.0)
    assert reasons(view, scored(0.0, 0.0, name="verify")) == ["score-too-low"]
    assert reasons(view, scored(None, name="verify")) == ["not-scored"]


def test_the_threshold_is_for_the_best_answer_that_can_be_used() -> None:
    of = scored(5.0, 2.0)
    of.candidates[0].finish_reason = "length"
    assert best(of, min_score=3.0, truncated="keep") == ["a"]
    view = SftView(pick="best", min_score=3.0)
    assert reasons(view, of) == ["score-too-low"]


def test_a_threshold_needs_a_pick_by_score() -> None:
    with pytest.raises(ValidationError, match="min_score: 1 is for pick: best; final"):
        SftView(min_score=1.0)


def test_how_far_best_of_n_goes_is_told(tmp_path: Path) -> None:
    samples = [scored(1.0, 2.0), scored(1.0, 2.0, 3.0, 4.0), scored(None)]
    views: list[View] = [
        SftView(pick="best"),
        SftView(name="all"),
        SftView(pick="best", name="rejection", min_score=2.0),
    ]
    chosen, every, rejection = export(views, source(*samples), tmp_path, {})
    # log 2 - 1/2 = 0.193147, log 4 - 3/4 = 0.636294; the third makes no row
    assert chosen.best_of_n is not None
    assert chosen.best_of_n.mean_n == 3.0
    assert chosen.best_of_n.mean_kl == pytest.approx((0.193147 + 0.636294) / 2, abs=1e-6)
    assert every.best_of_n is rejection.best_of_n is None
    assert "on average of 3.0" in card(tmp_path / "sft")
    assert "at most 0.415 nats" in card(tmp_path / "sft")
    assert "nats" not in card(tmp_path / "all")


# ---- on combined scores


def pair(*scores: tuple[float | None, float | None], id_: str = "s0") -> Sample:
    """One candidate for each (helpful, harmless)."""
    made = scored(*(helpful for helpful, _ in scores), name=PARTS[0])
    made.id = id_
    made.scores += [Score(PARTS[1], i, harmless) for i, (_, harmless) in enumerate(scores)]
    return made


def run() -> list[Sample]:
    """Two prompts; one answer of the second lacks a part."""
    return [
        pair((0.0, 10.0), (2.0, 0.0)),
        pair((0.0, 0.0), (2.0, 10.0), (2.0, None), id_="s1"),
    ]


def run_balanced() -> list[Sample]:
    """helpful 0, 2, 0, 2 and harmless 10, 0, 0, 10: z -1 or 1; combined 0, 0 and -1, 1. A third
    answer of the second prompt has no score."""
    samples = run()
    samples[1].scores = [s for s in samples[1].scores if s.candidate != 2]
    return samples


def test_views_take_the_combined_score_unnamed(tmp_path: Path) -> None:
    views: list[View] = [
        RewardView(),
        PreferenceView(pairs="best_vs_worst"),
        PreferenceView(pairs="best_vs_worst", score=PARTS[0], name="helpful"),
        PreferenceView(pairs="all_pairs", score="reward", min_margin=1.5, name="all"),
        KtoView(threshold=0.5),
        SftView(pick="best", min_score=0.5),
    ]
    reports = export(views, source(*run_balanced()), tmp_path, {}, [COMBINED])
    assert load(tmp_path / "reward")[:] == {
        "prompt": [PROMPT, PROMPT],
        "responses": [["a", "b"], ["a", "b"]],
        "scores": [[0.0, 0.0], [-1.0, 1.0]],
        "finish_reasons": [["stop", "stop"]] * 2,
        "prompt_id": ["s0", "s1"],
    }
    (row,) = load(tmp_path / "preference")
    assert (row["prompt_id"], row["margin"], row["chosen_score"]) == ("s1", 2.0, 1.0)
    assert row["chosen"][0]["content"] == "b"
    assert load(tmp_path / "helpful")["margin"][:] == [2.0, 2.0]
    assert load(tmp_path / "all")["prompt_id"][:] == ["s1"]
    assert load(tmp_path / "kto")["label"][:] == [False, False, False, True]
    assert [row["prompt_id"] for row in load(tmp_path / "sft")] == ["s1"]
    drops = {report.view: report.drops for report in reports}
    assert drops["preference"] == {"tie": 1}
    assert drops["all"] == {"tie": 1, "not-scored": 2}
    assert drops["kto"] == {"not-scored": 1}
    assert drops["sft"] == {"score-too-low": 1}


def test_a_part_that_is_missing_leaves_the_answer_out(tmp_path: Path) -> None:
    reports = export(
        [RewardView(), KtoView(threshold=0.0)], source(*run()), tmp_path, {}, [COMBINED]
    )
    assert [row["responses"] for row in load(tmp_path / "reward")] == [["a", "b"], ["a", "b"]]
    assert reports[1].drops == {"unparsed": 1}
    quality = reports[0].scores["reward"]
    assert (quality.scores, quality.unparsed) == (5, 1)


def test_reports_and_cards_tell_what_was_combined(tmp_path: Path) -> None:
    flat = [pair((1.0, 7.0), (3.0, 7.0))]
    reward, grpo = export([RewardView(), GrpoView()], source(*flat), tmp_path, {}, [COMBINED])
    (measured,) = reward.combinations
    assert measured.combination == COMBINED
    helpful, harmless = (measured.moments[part] for part in PARTS)
    assert (helpful.count, helpful.mean, helpful.std) == (2, 2.0, 1.0)
    assert (harmless.count, harmless.mean, harmless.std) == (2, 7.0, 0.0)
    assert grpo.combinations == []
    text = card(tmp_path / "reward")
    assert "`reward` is the weighted sum of these scores, standardized over the run." in text
    assert "| `reward/helpful` | 0.5 | 2 | 2 | 1 |" in text
    assert "`reward/harmless` never varies" in text
    assert "Combined scores" not in card(tmp_path / "grpo")
    assert reward.spreads["scores"].max == 0.5  # z 1 and 0, each half


@pytest.mark.parametrize(
    ("combination", "line"),
    [
        (
            Combination("reward", dict.fromkeys(PARTS, 0.5), "minimum"),
            "`reward` is the lowest of these scores, standardized over the run.",
        ),
        (
            Combination("reward", dict.fromkeys(PARTS, 0.5), "mean_minus_variance", 0.25, False),
            "`reward` is the mean less 0.25 times the variance of these scores, as they are.",
        ),
    ],
)
def test_a_card_tells_how_scores_were_combined(
    combination: Combination, line: str, tmp_path: Path
) -> None:
    export([RewardView()], source(*run()), tmp_path, {}, [combination])
    text = card(tmp_path / "reward")
    assert line in text
    assert "| score | values | mean | std |" in text


# ---- writing


VIEWS_HERE: list[View] = [RewardView(), GrpoView()]


def test_datasets_load_with_their_features_whatever_is_null(tmp_path: Path) -> None:
    export(VIEWS_HERE, source(scored(1.0, 2.0)), tmp_path / "some", {})
    export(VIEWS_HERE, source(), tmp_path / "none", {})
    for view in VIEWS_HERE:
        for folder, count in (("some", 1), ("none", 0)):
            data = load(tmp_path / folder / view.kind)
            assert len(data) == count
            assert data.features.arrow_schema == view.features().arrow_schema
        assert list(rows(view, scored(1.0, 2.0))[0]) == list(view.features())
    assert load(tmp_path / "some" / "grpo")[0]["reference"] is None


def test_same_traces_write_the_same_bytes(tmp_path: Path) -> None:
    samples = source(*run())  # the same objects again: an export leaves no mark on them
    for name in ("one", "two"):
        export([*VIEWS_HERE, SftView(pick="best")], samples, tmp_path / name, {}, [COMBINED])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 12


def test_cards_say_how_to_train_and_hold_no_text_of_a_model(tmp_path: Path) -> None:
    of = scored(1.0, 2.0, texts=["XYZZY before", "XYZZY after"])
    of.reference = "XYZZY"
    export(VIEWS_HERE, source(of), tmp_path, {})
    reward, grpo = card(tmp_path / "reward"), card(tmp_path / "grpo")
    assert "XYZZY" not in reward + grpo
    assert "`factory train reward --data FOLDER --model MODEL --out OUT` trains on it." in reward
    assert "from trl" not in reward
    assert "trl" not in yaml.safe_load(reward.split("---\n")[1])["tags"]
    assert {"trl", "grpo"} <= set(yaml.safe_load(grpo.split("---\n")[1])["tags"])
    assert "`factory train grpo --set 'rewards=[{kind: verify}]' --data FOLDER" in grpo


def test_the_grpo_cards_code_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl

    export([GrpoView()], source(scored(1.0)), tmp_path, {})
    code = card(tmp_path / "grpo").split("```python\n")[1].split("```")[0]
    given: dict[str, Any] = {}

    class Trainer:
        def __init__(self, **options: Any) -> None:
            given.update(options)

        def train(self) -> None: ...

    monkeypatch.setattr(trl, "GRPOTrainer", Trainer)
    monkeypatch.setattr(trl, "GRPOConfig", dict)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert given["train_dataset"].column_names == ["prompt", "reference", "tags", "prompt_id"]
    said = [[{"role": "assistant", "content": text}] for text in ("it is 4", "it is 5", "six")]
    rewards = given["reward_funcs"](completions=said, reference=["4", "4", None], tags=[[]] * 3)
    assert rewards == [1.0, 0.0, None]


def test_process_rows_are_exported_with_their_card(tmp_path: Path) -> None:
    of = scored(1.0)
    of.step_labels = [StepLabels("prm", 0, ["one", "two"], [0.75, None], [True, None])]
    (report,) = export([ProcessView(prm800k=True)], source(of), tmp_path, {})
    assert load(tmp_path / "process")[0]["labels"] == [True, None]
    assert (report.spreads["scores"].count, report.spreads["scores"].mean) == (1, 0.75)
    assert len((tmp_path / "process.prm800k.jsonl").read_text().splitlines()) == 1
    assert "`factory train prm --data FOLDER --model MODEL --out OUT`" in card(tmp_path / "process")
