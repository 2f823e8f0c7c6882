"""`factory eval`: figures worked out by hand, from columns and from a scorer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from factory.core.errors import RecipeError
from factory.core.weights import EMBEDDED
from factory.engines.base import Completion, Request
from factory.evaluation.eval_judge import evaluate_judge
from factory.evaluation.eval_process import evaluate_process
from factory.evaluation.eval_reward import evaluate_reward
from factory.evaluation.evaluate import Evaluation, work_folder
from factory.evaluation.rows import open_rows
from factory.evaluation.scorer import Scorer, from_recipe, judge_of
from tests.fakes import FakeEngine, labeled


class Scripted(FakeEngine):
    """Answers with a function of the request."""

    def __init__(self, answer: Callable[[Request], Completion]) -> None:
        super().__init__()
        self._script = answer

    async def generate(self, request: Request) -> Completion:
        self.seen.append(request)
        return self._script(request)


def scores(*rows: list[float]) -> Completion:
    return Completion("", "stop", 10, 0, 0, scores=[*rows])


def recipe(folder: Path, *stages: dict[str, Any], task: str) -> Path:
    path = folder / "scorer.yaml"
    models = {"m": {"model": EMBEDDED, "task": task}}
    path.write_text(yaml.safe_dump({"models": models, "stages": list(stages)}))
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# -- reward -------------------------------------------------------------------------------------

# By hand: right, wrong, a tie, unscored.
SCORED = [
    {
        "prompt": "a?",
        "chosen": "x y",
        "rejected": "x",
        "chosen_s": 2.0,
        "rejected_s": 1.0,
        "of": "u",
    },
    {
        "prompt": "b?",
        "chosen": "x y",
        "rejected": "x",
        "chosen_s": 0.0,
        "rejected_s": 1.0,
        "of": "v",
    },
    {
        "prompt": "c?",
        "chosen": "x",
        "rejected": "x y",
        "chosen_s": 1.0,
        "rejected_s": 1.0,
        "of": "v",
    },
    {
        "prompt": "d?",
        "chosen": "x",
        "rejected": "y",
        "chosen_s": None,
        "rejected_s": 1.0,
        "of": "v",
    },
    {"prompt": "e?", "chosen": "", "rejected": "y", "chosen_s": 1.0, "rejected_s": 0.0, "of": "v"},
]


def test_reward_accuracy_of_columns(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "pairs.jsonl", SCORED))
    found = evaluate_reward(rows, None, score="s", subset="of")
    every = found.report.overall
    assert (every.pairs, every.ties, every.unscored) == (3, 1, 1)
    assert every.accuracy.value == pytest.approx(1.5 / 3)
    assert every.longer_wins.value == pytest.approx(2 / 3)
    assert [(g.subset, g.accuracy.value) for g in found.report.subsets] == [("u", 1.0), ("v", 0.25)]
    assert (found.rows, found.bad_rows) == (4, {"column 'chosen' holds a blank answer": 1})
    assert "1 x column 'chosen' holds a blank answer" in found.text()


def longer_is_better(request: Request) -> Completion:
    return scores([float(len(request.messages[-1]["content"]))])


def by_reward(folder: Path) -> Scorer:
    return from_recipe(recipe(folder, {"kind": "reward", "model": "m"}, task="classify"))


def test_reward_accuracy_of_a_model_and_the_same_again_for_nothing(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "pairs.jsonl", SCORED))

    def go() -> tuple[Evaluation, int]:
        engine = Scripted(longer_is_better)
        by, work = by_reward(tmp_path), tmp_path / "work"
        return evaluate_reward(rows, by, work, engines={"m": engine}), len(engine.seen)

    found, asked = go()
    assert asked == found.calls == 8  # of the five rows, one has a blank answer
    every = found.report.overall
    assert (every.pairs, every.accuracy.value) == (4, pytest.approx((1 + 1 + 0 + 0.5) / 4))
    assert list(found.bad_rows.values()) == [1]
    assert found.scorer == {"score": "reward", "models": {"m": EMBEDDED}}
    again, asked = go()
    assert (asked, again.calls, again.report) == (0, 0, found.report)


def test_a_row_that_could_not_be_scored_is_unscored(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "pairs.jsonl", SCORED[:2]))
    engine = Scripted(
        lambda request: scores([float("nan") if "a?" in str(request.messages) else 1.0])
    )
    found = evaluate_reward(rows, by_reward(tmp_path), tmp_path / "w", engines={"m": engine})
    assert (found.report.overall.pairs, found.report.overall.unscored) == (1, 1)
    assert found.bad_rows == {"the model's output is not finite": 1}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "needs --model, --recipe, or --score"),
        ({"score": "t"}, "no column 'chosen_t', 'rejected_t', which --score t needs"),
        ({"score": "s", "subset": "part"}, "no column 'part', which --subset needs .has: prompt"),
    ],
)
def test_what_eval_reward_refuses(tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    rows = open_rows(lines(tmp_path / "pairs.jsonl", SCORED))
    with pytest.raises(RecipeError, match=complaint):
        evaluate_reward(rows, None, **options)


def test_a_dataset_of_another_shape_or_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "sft.jsonl", [{"prompt": "a?", "completion": "b"}]))
    with pytest.raises(RecipeError, match=r"needs chosen and rejected; .* is a completion dataset"):
        evaluate_reward(rows, None, score="s")
    rows = open_rows(lines(tmp_path / "blank.jsonl", SCORED[4:]))
    with pytest.raises(RecipeError, match=r"no row of .* can be used\n  1 x column 'chosen' holds"):
        evaluate_reward(rows, None, score="s")


def test_the_default_folder_depends_on_the_data_and_not_on_the_limit(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "pairs.jsonl", SCORED))
    other = open_rows(lines(tmp_path / "other.jsonl", SCORED[:4]))
    by = by_reward(tmp_path)
    assert work_folder("reward", rows, by) == work_folder("reward", rows.limited(1), by)
    assert work_folder("reward", rows, by) != work_folder("reward", other, by)


# -- process ------------------------------------------------------------------------------------

SOLUTIONS = [
    {"id": "gsm8k-0", "problem": "1?", "steps": ["a b", "c"], "label": -1},
    {"id": "gsm8k-1", "problem": "2?", "steps": ["a", "wrong", "c"], "label": 1},
    {"id": "math-2", "problem": "3?", "steps": ["a", "c", "wrong"], "label": 1},
]


def spots_wrong(request: Request) -> Completion:
    """Logits of (wrong, right): P(right) is 0.88, and 0.12 where the word stands."""
    assert request.scoring is not None
    return scores(*([0.0, -2.0 if step == "wrong" else 2.0] for step in request.scoring.steps))


def by_process(folder: Path) -> Scorer:
    return from_recipe(recipe(folder, {"kind": "process", "model": "m"}, task="token_classify"))


def test_a_process_model_on_processbench(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "bench.jsonl", [*SOLUTIONS, {**SOLUTIONS[0], "label": 7}]))
    engine = Scripted(spots_wrong)
    found = evaluate_process(rows, by_process(tmp_path), tmp_path / "w", engines={"m": engine})
    every = found.report.overall
    assert (every.wrong, every.right, len(engine.seen)) == (2, 1, 3)
    # The first error is found in one of two; the right one is left alone: 2 * 0.5 * 1 / 1.5.
    assert (every.on_wrong.value, every.on_right.value) == (0.5, 1.0)
    assert every.f1.value == pytest.approx(2 / 3)
    assert [errors.subset for errors in found.report.subsets] == ["gsm8k", "math"]
    assert list(found.bad_rows.values()) == [1]


def test_step_scores_of_a_column(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1?", "completions": ["a", "b"], "labels": [True, False], "p_steps": [0.9, 0.2]},
        {"prompt": "2?", "completions": ["a", "b"], "labels": [True, True], "p_steps": [0.9, 0.6]},
        {"prompt": "3?", "completions": ["a", "b"], "labels": [True, True], "p_steps": [0.9]},
        {"prompt": "4?", "completions": ["a"], "labels": [True], "p_steps": [1.5]},
        {"prompt": "5?", "completions": ["a"], "labels": [True, True], "p_steps": [0.5]},
    ]
    data = lines(tmp_path / "steps.jsonl", rows)
    found = evaluate_process(open_rows(data), None, score="p")
    assert (found.report.overall.f1.value, found.report.steps.auc.value) == (1.0, 1.0)
    assert (found.rows, found.bad_rows) == (
        2,
        {
            "not as many step scores as steps": 1,
            "a step score is outside [0, 1]": 1,
            "not as many labels as steps": 1,
        },
    )
    strict = evaluate_process(open_rows(data), None, score="p_steps", threshold=0.7)
    assert strict.report.overall.on_right.value == 0.0


def test_of_prm800k_the_solutions_count(tmp_path: Path) -> None:
    step = {
        "completions": [{"text": "Add.", "rating": 1}, {"text": "Eat.", "rating": -1}],
        "chosen_completion": 0,
    }
    row = {"question": {"problem": "1?"}, "label": {"steps": [step], "finish_reason": "solution"}}
    rows = open_rows(lines(tmp_path / "prm800k.jsonl", [row]))
    engine = Scripted(spots_wrong)
    found = evaluate_process(rows, by_process(tmp_path), tmp_path / "w", engines={"m": engine})
    assert [request.scoring.steps for request in engine.seen if request.scoring] == [("Add.",)]
    assert found.bad_rows == {"an alternative step of PRM800K, which is no solution": 1}
    assert (found.report.overall.right, found.report.overall.wrong) == (1, 0)


def test_eval_process_needs_a_process_stage(tmp_path: Path) -> None:
    rows = open_rows(lines(tmp_path / "bench.jsonl", SOLUTIONS))
    with pytest.raises(RecipeError, match="needs one process stage; the scorer has none"):
        evaluate_process(rows, by_reward(tmp_path))


# -- judge --------------------------------------------------------------------------------------

JUDGE = {"kind": "judge", "model": "m"}  # of revisions, as a recipe for making data has it


def likes_long(request: Request) -> Completion:
    """Says A with 0.8 if answer A has the word "long", B with 0.8 if not."""
    first = request.messages[-1]["content"].partition("Answer (B)")[0]
    return labeled(A=0.8, B=0.2) if "long" in first else labeled(A=0.2, B=0.8)


def compared(
    folder: Path, rows: list[dict[str, Any]], **columns: Any
) -> tuple[Evaluation, list[Request]]:
    engine = Scripted(likes_long)
    by = judge_of(recipe(folder, JUDGE, task="generate"))
    data = open_rows(lines(folder / "compared.jsonl", rows))
    found = evaluate_judge(data, by, folder / "work", columns=columns, engines={"m": engine})
    return found, engine.seen


def test_a_judge_and_one_person(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "1?", "response_a": "a long one", "response_b": "one", "label": "a"},
        {"prompt": "2?", "response_a": "one", "response_b": "a long one", "label": "a"},
        {"prompt": "3?", "response_a": "one", "response_b": "a long one", "label": "tie"},
        {"prompt": "4?", "response_a": "one", "response_b": "a long one", "label": "maybe"},
        {"prompt": "5?", "response_a": "same", "response_b": "same", "label": "tie"},
    ]
    found, seen = compared(tmp_path, rows)
    assert len(seen) == 6  # three comparisons in both orders; equal answers need none
    report = found.report
    assert (report.comparisons, report.judge_ties) == (4, 1)
    assert report.three_way.judge.value == pytest.approx(2 / 4)
    assert report.decided.judge.value == pytest.approx(1 / 2)
    assert report.swap_consistency.value == 1.0
    assert ["human label 'maybe'" in reason for reason in found.bad_rows] == [True]


def test_pandalm_is_known_by_its_columns(tmp_path: Path) -> None:
    row = {
        "instruction": "Shorten this.",
        "input": "A text.",
        "response1": "one",
        "response2": "a long one",
        **{f"annotator{i}": label for i, label in ((1, 2), (2, 2), (3, 0))},
    }
    found, seen = compared(tmp_path, [row])
    assert "> Shorten this.\n>\n> A text.\n" in seen[0].messages[-1]["content"]
    assert found.report.decided.judge.value == 1.0
    assert found.report.between_people.value == pytest.approx(1 / 3)
    one, _ = compared(tmp_path, [row], labels=("annotator3",))
    assert one.report.decided.comparisons == 0


def test_columns_by_name(tmp_path: Path) -> None:
    row = {"q": "1?", "x": "a long one", "y": "one", "p1": 1, "p2": 2}
    names = {"prompt": "q", "a": "x", "b": "y", "labels": ("p1",)}
    found, _ = compared(tmp_path, [row], **names)
    assert found.report.three_way.judge.value == 1.0
    with pytest.raises(RecipeError, match=r"no column 'prompt', 'response_a', .*--prompt-column"):
        compared(tmp_path, [row])


def test_a_recipe_without_a_pairwise_judge(tmp_path: Path) -> None:
    rating = {"kind": "judge", "mode": "pointwise", "model": "m"}
    with pytest.raises(RecipeError, match="has no pairwise judge"):
        judge_of(recipe(tmp_path, rating, task="generate"))


def test_a_saved_dataset_reads_as_lines_do(tmp_path: Path) -> None:
    Dataset.from_list(SCORED).save_to_disk(str(tmp_path / "pairs"))
    saved = evaluate_reward(open_rows(str(tmp_path / "pairs")), None, score="s")
    read = evaluate_reward(open_rows(lines(tmp_path / "p.jsonl", SCORED)), None, score="s")
    assert saved.report == read.report


def test_labels_of_zero_and_one_are_refused_as_they_would_all_be_right(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": [1, 0], "s": [0.9, 0.1]}]
    with pytest.raises(RecipeError, match="write false and true"):
        evaluate_process(open_rows(lines(tmp_path / "rows.jsonl", rows)), None, score="s")
