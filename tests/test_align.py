"""The loop, with a deterministic engine and a training that writes a folder: what follows what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from factory import align as module
from factory.align import align, table
from factory.errors import FactoryError, RecipeError
from factory.evaluation import rounds
from factory.evaluation.bootstrap import Estimate
from factory.evaluation.rounds import Answers, Change, Evaluation, _answers, _change
from factory.evaluation.win_rate import WinRate, win_rate
from factory.recipe import Recipe, StopRules
from factory.records import Candidate, Sample, Score
from factory.runner.manifest import Manifest
from factory.runner.progress import Progress
from factory.runner.run import run_async
from factory.training.base import TrainingConfig
from tests.fakes import FakeEngine

Load = Callable[..., Recipe]


@pytest.fixture
def trained_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Adds training and evaluation to the project; returns (model, folder) of each training."""
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    held_out = [{"id": f"h{i}", "prompt": f"What of {i} dogs?"} for i in range(5)]
    (project / "held-out.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held_out))
    data["training"] = [{"kind": "dpo", "model": "policy"}]
    data["evaluation"] = {
        "source": {"path": "held-out.jsonl"},
        "model": "policy",
        "judge": "policy",
        "principles": 2,
    }
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    trainings: list[tuple[str, str]] = []

    def run(recipe: Recipe, out: Path, *, progress: Progress) -> Manifest:
        engines = {name: FakeEngine(name=config.model) for name, config in recipe.models.items()}
        return asyncio.run(
            run_async(recipe, out, engines=engines, progress=Progress(is_quiet=True))
        )

    def train(training: TrainingConfig, data: Path, model: str, out: Path) -> dict[str, Any]:
        assert data == out.parents[1] / "run" / "datasets" / "preference"
        trainings.append((model, f"{out.parents[1].name} {out.name} {training.config}"))
        out.mkdir(parents=True)
        (out / "config.json").write_text("{}")
        return {"steps": 3, "metrics": {"loss": 0.5}}

    monkeypatch.setattr(module, "run_in_phases", run)
    monkeypatch.setattr(module, "train_apart", train)
    monkeypatch.setattr(rounds, "run", run)
    monkeypatch.setattr(rounds, "log_ratio", lambda old, new, answers, are_cut: float(len(answers)))
    return trainings


NEVER = "evaluation.stop.win_rate=0"


def test_each_round_trains_the_last_rounds_model(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    done, reason = align(recipe(NEVER), tmp_path / "out", 2)
    first = str(tmp_path / "out" / "round-1" / "models" / "dpo")
    assert trained_on == [("smollm2-135m-instruct", "round-1 dpo {}"), (first, "round-2 dpo {}")]
    saved = yaml.safe_load((tmp_path / "out" / "round-2" / "run" / "recipe.yaml").read_text())
    assert saved["models"]["policy"]["model"] == first
    assert [r.number for r in done] == [1, 2]
    assert reason is None
    assert [set(r.evaluation.against) for r in done] == [{"first"}, {"first", "previous"}]
    assert len(json.loads((tmp_path / "out" / "align.json").read_text())) == 2


def test_the_judge_keeps_its_weights_in_every_round(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    align(recipe(NEVER), tmp_path / "out", 2)
    written = yaml.safe_load((tmp_path / "out" / "round-2" / "evaluation.yaml").read_text())
    assert written["models"]["policy"]["model"] == "smollm2-135m-instruct"
    made = [str(tmp_path / "out" / f"round-{i}" / "models" / "dpo") for i in (1, 2)]
    assert [written["models"][name]["model"] for name in ("previous", "new")] == made


def test_a_result_that_no_earlier_training_makes_is_refused(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="'trained:rewrad' is no earlier training"):
        align(recipe("training.0.config={reward_model: trained:rewrad}"), tmp_path, 1)
    assert trained_on == []


def test_trainings_of_a_round_follow_each_other(
    recipe: Load, trained_on: list[tuple[str, str]], project: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["training"] = [
        {"kind": "sft", "view": "preference", "name": "imitate"},
        {"kind": "reward", "model": "policy"},
        {"kind": "ppo", "view": "preference", "config": {"rewards": [{"model": "trained:reward"}]}},
    ]
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    module_check = pytest.MonkeyPatch()
    module_check.setattr(module, "check_training", lambda recipe: None)
    [done], _ = align(recipe(), tmp_path / "out", 1)
    module_check.undo()
    models = tmp_path / "out" / "round-1" / "models"
    base = "smollm2-135m-instruct"
    config = {"rewards": [{"model": str(models / "reward")}]}
    assert trained_on == [
        (base, "round-1 imitate {}"),
        (str(models / "imitate"), "round-1 reward {}"),
        (str(models / "imitate"), f"round-1 ppo {config}"),
    ]
    assert done.model == str(models / "ppo")
    assert [t.kind for t in done.trainings] == ["sft", "reward", "ppo"]


def test_the_comparison_is_of_the_first_model_with_the_new_one(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    [done], reason = align(recipe(), tmp_path / "out", 1)
    written = yaml.safe_load((tmp_path / "out" / "round-1" / "evaluation.yaml").read_text())
    models = {name: entry["model"] for name, entry in written["models"].items()}
    assert models == {
        "policy": "smollm2-135m-instruct",
        "first": "smollm2-135m-instruct",
        "new": str(tmp_path / "out" / "round-1" / "models" / "dpo"),
    }
    w = done.evaluation.against["first"]
    # The fake engine answers both the same: every comparison is a tie, without a judge's call.
    assert (w.wins, w.losses, w.ties, w.prompts) == (0, 0, 5, 5)
    assert (w.rate, w.low, w.high) == (0.5, 0.5, 0.5)
    assert done.evaluation.kl == 5.0  # of the five answers, by the stand-in
    assert done.evaluation.answers["new"].prompts == 5
    assert reason is None  # it was the last round anyway
    text = table([done], reason)
    assert "50%  (95%: 50% to 50%)" in text
    assert "dpo 3 steps" in text


def answers(words: float) -> Answers:
    return Answers(8, Estimate(words), 0.0, 0.0, {}, {})


def test_the_change_is_prompt_by_prompt() -> None:
    def sample(id: str, first: float | None, new: float | None, words: int) -> Sample:
        return Sample(
            id=id,
            index=0,
            prompt=[{"role": "user", "content": id}],
            candidates=[
                Candidate(index=0, text="a b", origin="generate", model="first", call=""),
                Candidate(index=1, text="a " * words, origin="generate", model="new", call=""),
            ],
            scores=[Score("short", 0, first), Score("short", 1, new)],
        )

    # The prompts differ by 100, the models by 1 and 3; of the third prompt only one has a score.
    samples = [sample("p", 0.0, 1.0, 1), sample("q", 100.0, 103.0, 5), sample("r", None, 7.0, 3)]
    change = _change(samples, seed=0)
    short = change.scores["short"]
    assert (short.value, short.low, short.high) == (2.0, 1.0, 3.0)
    assert change.words.value == pytest.approx((-1 + 3 + 1) / 3)
    of_first = _answers(samples, "first", seed=0)
    assert of_first.scores["short"].value == 50.0
    assert (of_first.unscored, of_first.words.value) == ({"short": 1}, 2.0)


def rate(value: float | None) -> WinRate:
    return msgspec.structs.replace(win_rate([]), rate=value)


@pytest.mark.parametrize(
    ("against", "words", "kl", "reason"),
    [
        ({"first": rate(0.6)}, 120.0, 3.0, None),
        ({"first": rate(0.5)}, 100.0, 0.0, "no gain: a win rate of 50% against the model before"),
        ({"first": rate(0.9), "previous": rate(0.4)}, 100.0, 0.0, "no gain: a win rate of 40%"),
        ({"first": rate(0.9)}, 201.0, 0.0, "answers grew from 100 words to 201"),
        ({"first": rate(0.9)}, 100.0, 8.1, "the model moved 8.1 nats an answer away"),
        ({"first": rate(None)}, 100.0, None, None),
    ],
)
def test_the_loop_stops_by_rule(
    against: dict[str, WinRate], words: float, kl: float | None, reason: str | None
) -> None:
    found = module._reason_to_stop(
        Evaluation(
            {"first": answers(100.0), "new": answers(words)},
            against,
            Change(Estimate(words - 100.0), {}),
            kl,
        ),
        StopRules(kl=8.0),
    )
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


def test_a_round_without_gain_is_the_last(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    done, reason = align(recipe(), tmp_path / "out", 3)
    assert len(done) == len(trained_on) == 1
    assert reason == "no gain: a win rate of 50% against the model before"
    assert "stopped after round 1: no gain" in table(done, reason)


@pytest.mark.parametrize("field", ["training", "evaluation"])
def test_a_recipe_that_cannot_be_aligned_says_what_to_add(
    recipe: Load, trained_on: list[tuple[str, str]], project: Path, tmp_path: Path, field: str
) -> None:
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    del data[field]
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match=f"{field}: align needs .*add `{field}: "):
        align(recipe(), tmp_path / "out", 1)
    assert trained_on == []


def test_a_model_that_only_scores_is_not_aligned(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"none trains 'policy'.*have: reward of policy"):
        align(recipe("training.0.kind=reward"), tmp_path, 1)
    assert trained_on == []


def test_an_evaluation_that_cannot_run_is_refused_before_any_training(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="no kind 'verfy'; did you mean 'verify'"):
        align(recipe("evaluation.scores=[{kind: verfy}]"), tmp_path, 1)
    assert trained_on == []


def test_a_run_without_pairs_stops_before_training(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(FactoryError, match="made no rows for 'preference'"):
        align(recipe("views.0.min_margin=0.99"), tmp_path / "out", 1)
    assert trained_on == []
