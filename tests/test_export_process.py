from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from factory.core.records import Candidate, Sample, StepLabels
from factory.export.export import export
from factory.export.process import ProcessView
from factory.export.schemas import MEANINGS
from tests.viewed import reasons, rows


def labeled(
    candidate: int = 0,
    labels: tuple[bool | None, ...] = (True, False, None),
    name: str = "mc",
    scores: tuple[float | None, ...] | None = None,
) -> StepLabels:
    steps = [f"step {i + 1}" for i in range(len(labels))]
    return StepLabels(name, candidate, steps, [*(scores or [None] * len(labels))], [*labels])


def sample_of(*step_labels: StepLabels, candidates: int = 1, id_: str = "s0") -> Sample:
    return Sample(
        id_,
        0,
        [{"role": "user", "content": "48 + 24?"}],
        candidates=[Candidate(i, "text", "generate", "m", "c") for i in range(candidates)],
        step_labels=[*step_labels],
    )


def test_a_row_is_a_solution_with_a_label_for_each_step() -> None:
    sample = sample_of(labeled(scores=(0.75, 0.0, None)))
    assert rows(ProcessView(), sample) == [
        {
            "prompt": [{"role": "user", "content": "48 + 24?"}],
            "completions": ["step 1", "step 2", "step 3"],
            "labels": [True, False, None],
            "scores": [0.75, 0.0, None],
            "prompt_id": "s0",
        }
    ]
    assert reasons(ProcessView(), sample) == []


def test_every_solution_makes_a_row_from_its_own_labels() -> None:
    sample = sample_of(labeled(1, (False,)), labeled(0, (True,)), candidates=2)
    assert [row["labels"] for row in rows(ProcessView(), sample)] == [[True], [False]]


def test_scores_that_are_no_numbers_are_unknown() -> None:
    sample = sample_of(labeled(labels=(True, True), scores=(math.nan, 1.0)))
    assert rows(ProcessView(), sample)[0]["scores"] == [None, 1.0]


def test_a_dropped_solution_makes_no_row() -> None:
    sample = sample_of(labeled())
    sample.candidates[0].drop_reason = "refusal"
    assert reasons(ProcessView(), sample) == ["filtered"]


def test_a_solution_that_was_cut_makes_no_row_unless_kept() -> None:
    sample = sample_of(labeled())
    sample.candidates[0].finish_reason = "length"
    assert reasons(ProcessView(), sample) == ["truncated"]
    assert len(rows(ProcessView(truncated="keep"), sample)) == 1


def test_a_solution_that_nobody_labeled_makes_no_row() -> None:
    sample = sample_of(labeled(1), candidates=2)
    assert reasons(ProcessView(), sample) == ["no-steps"]
    assert len(rows(ProcessView(), sample)) == 1


def test_a_solution_of_unknown_labels_makes_no_row() -> None:
    sample = sample_of(labeled(labels=(None, None)))
    assert reasons(ProcessView(), sample) == ["no-labels"]


def test_of_several_scorers_one_must_be_named() -> None:
    sample = sample_of(labeled(name="mc"), labeled(name="prm", labels=(True,)))
    assert reasons(ProcessView(), sample) == ["several-scorers"]
    assert [row["labels"] for row in rows(ProcessView(steps="prm"), sample)] == [[True]]
    assert reasons(ProcessView(steps="other"), sample) == ["no-steps"]


@pytest.mark.parametrize(
    ("view", "need"), [(ProcessView(), "steps:*"), (ProcessView(steps="mc"), "steps:mc")]
)
def test_it_needs_a_stage_that_labels_steps(view: ProcessView, need: str) -> None:
    assert view.needs() == {"candidates", need}


def test_the_dataset_holds_nulls_and_every_column_is_explained(tmp_path: Path) -> None:
    from datasets import load_from_disk

    samples = [sample_of(labeled(labels=(None, True))), sample_of(labeled(), id_="s1")]
    [report] = export([ProcessView()], lambda: iter(samples), tmp_path, {})
    data = load_from_disk(str(tmp_path / "process"))
    assert data["labels"][:] == [[None, True], [True, False, None]]
    assert data["scores"][:] == [[None, None], [None, None, None]]
    assert (report.rows, report.prompts, report.drops) == (2, 2, {})
    assert set(data.features) <= set(MEANINGS)


def test_prm800k_lines_stand_beside_the_dataset(tmp_path: Path) -> None:
    view = ProcessView(prm800k=True)
    export([view], lambda: iter([sample_of(labeled())]), tmp_path, {})
    view.write_beside(tmp_path / "process")
    [line] = (tmp_path / "process.prm800k.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["question"]["problem"] == "48 + 24?"
    steps = [step["completions"][0] for step in found["label"]["steps"]]
    assert [(step["text"], step["rating"]) for step in steps] == [
        ("step 1", 1),
        ("step 2", -1),
        ("step 3", None),
    ]


def test_without_the_option_nothing_stands_beside_it(tmp_path: Path) -> None:
    ProcessView().write_beside(tmp_path / "process")
    assert [*tmp_path.iterdir()] == []
