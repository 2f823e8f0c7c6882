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

from factory.align import held_out as comparing
from factory.align import loop as module
from factory.align.held_out import Answers, Change, Evaluation, _answers, _change, _comparisons
from factory.align.loop import align, best
from factory.align.report import Alignment, Best, Round, examples, table
from factory.core.errors import FactoryError, RecipeError
from factory.core.lock import alone_in
from factory.core.records import Candidate, Sample, Score
from factory.pipeline.manifest import Manifest
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.recipe.recipe import Recipe, StopRules
from factory.stats.bootstrap import Estimate
from factory.stats.win_rate import WinRate, win_rate
from factory.training.config import TrainingConfig
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

    def run(recipe: Recipe, out: Path, *, progress: Progress, retries: bool = True) -> Manifest:
        engines = {name: FakeEngine(name=config.model) for name, config in recipe.models.items()}
        return asyncio.run(
            run_async(
                recipe, out, engines=engines, progress=Progress(is_quiet=True), retries=retries
            )
        )

    def train(training: TrainingConfig, data: Path, model: str, out: Path) -> dict[str, Any]:
        assert data == out.parents[1] / "run" / "datasets" / "preference"
        trainings.append((model, f"{out.parents[1].name} {out.name} {training.config}"))
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text("{}")
        return {"steps": 3, "metrics": {"loss": 0.5}}

    monkeypatch.setattr(module, "run_with_trainings", run)
    monkeypatch.setattr(module, "train_in_child_process", train)
    monkeypatch.setattr(comparing, "run", run)
    monkeypatch.setattr(
        comparing, "log_ratio", lambda old, new, answers, *_, **__: about(float(len(answers)))
    )
    return trainings


def about(value: float, low: float | None = None) -> Estimate:
    return Estimate(value, value if low is None else low, value + 1)


NEVER = "evaluation.stop.win_rate=0"


def test_each_round_trains_the_last_rounds_model(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    result = align(recipe(NEVER), tmp_path / "out", 2)
    done = result.rounds
    first = str(tmp_path / "out" / "round-1" / "models" / "dpo")
    assert trained_on == [("smollm2-135m-instruct", "round-1 dpo {}"), (first, "round-2 dpo {}")]
    saved = yaml.safe_load((tmp_path / "out" / "round-2" / "run" / "recipe.yaml").read_text())
    assert saved["models"]["policy"]["model"] == first
    assert [r.number for r in done] == [1, 2]
    assert result.stopped is None
    assert [set(r.evaluation.against) for r in done] == [{"first"}, {"first", "previous"}]
    written = tmp_path / "out" / "align.json"
    assert msgspec.json.decode(written.read_bytes(), type=module.Alignment) == result
    assert len(align(recipe(NEVER), tmp_path / "out", 1).rounds) == 1
    assert len(json.loads(written.read_text())["rounds"]) == 2  # those are not forgotten


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
    [done] = align(recipe(), tmp_path / "out", 1).rounds
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
    result = align(recipe(), tmp_path / "out", 1)
    [done] = result.rounds
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
    assert w.rate == 0.5
    assert done.evaluation.log_ratio == about(5.0)  # of the five answers, by the stand-in
    assert done.evaluation.answers["new"].prompts == 5
    assert done.evaluation.left_out == 0
    assert result.stopped is None  # it was the last round anyway
    text = table(result)
    assert "win rate against the first by the judge: 50% of 5 (95%: " in text
    assert max(map(len, text.splitlines())) <= max(80, len(done.model) + 20)
    assert "5.00 (5.00 to 6.00)" in text
    assert result.best == Best(0, "smollm2-135m-instruct", result.best.why)
    assert "the best model: smollm2-135m-instruct\n  the first model: round 1's win rate" in text
    assert f"the last model: {done.model}" in text
    assert "log-ratio" in text
    assert "KL" not in text  # the answers were greedy
    assert "round 1: dpo 3 steps on " in text
    shown = done.evaluation.examples
    assert [e.first == e.new for e in shown] == [True] * 3  # the fake engine again
    assert examples(done.evaluation).count("held-out prompt: ") == 3


def test_without_a_judge_the_higher_score_wins(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    score = "evaluation.scores=[{kind: rule, name: short, rule: {kind: length, target: 3}}]"
    [done] = align(recipe("evaluation.judge=null", score), tmp_path / "out", 1).rounds
    assert done.evaluation.compared_by == "short"
    w = done.evaluation.against["first"]
    assert (w.wins, w.losses, w.ties, w.flip_rate) == (0, 0, 5, None)
    assert "by short: 50% of 5" in table(Alignment([done]))
    written = yaml.safe_load((tmp_path / "out" / "round-1" / "evaluation.yaml").read_text())
    assert [stage["kind"] for stage in written["stages"]] == ["generate", "generate", "rule"]
    with pytest.raises(RecipeError, match="judge: name one of the models, or give `scores`"):
        recipe("evaluation.judge=null")


def test_scores_decide_who_wins() -> None:
    def by_short(new: float | None, old: float | None) -> float | None:
        sample = Sample(
            id="p",
            index=0,
            prompt=[{"role": "user", "content": "p"}],
            candidates=[
                Candidate(index=0, text="a b", origin="generate", model="first", call=""),
                Candidate(index=1, text="a", origin="generate", model="new", call=""),
            ],
            scores=[Score("other", 1, 9.0), Score("short", 0, old), Score("short", 1, new)],
        )
        [found] = _comparisons(sample, "first", "short")
        assert (found.words_new, found.words_old) == (1, 2)
        return found.p

    assert [by_short(*pair) for pair in [(1, 0), (0, 1), (1, 1), (None, 1)]] == [1, 0, 0.5, None]


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
    assert change.length_ratio.value == pytest.approx((1 + 5 + 3) / (2 + 2 + 2))
    of_first = _answers(samples, "first", seed=0)
    assert of_first.scores["short"].value == 50.0
    assert (of_first.unscored, of_first.words.value) == ({"short": 1}, 2.0)


def test_all_answers_right_is_not_right_for_certain() -> None:
    def sample(i: int) -> Sample:
        asked = [{"role": "user", "content": f"{i}?"}]
        made = [Candidate(k, "a", "generate", name, "") for k, name in enumerate(("first", "new"))]
        scores = [Score("verify", 0, 0.0), Score("verify", 1, 1.0)]
        return Sample(f"p{i}", i, asked, candidates=made, scores=scores)

    samples = [sample(i) for i in range(8)]
    right = _answers(samples, "new", seed=0).scores["verify"]
    gain = _change(samples, seed=0).scores["verify"]
    assert (right.value, right.high, gain.value, gain.high) == (1.0, 1.0, 1.0, 1.0)
    assert 0.55 < right.low < 0.75
    assert 0.1 < gain.low < 0.5  # all that is known of a difference is that it is within -1 and 1


def rate(value: float | None, low: float = 0.0, high: float = 1.0) -> WinRate:
    counts = {"wins": 5, "losses": 3, "prompts": 8}
    interval = {} if value is None else {"rate": value, "low": low, "high": high}
    return msgspec.structs.replace(win_rate([]), **counts, **interval)


def evaluated(
    against: dict[str, WinRate],
    longer: Estimate = Estimate(1.0, 0.9, 1.1),  # noqa: B008
    kl: Estimate | None = None,
) -> Evaluation:
    change = Change(Estimate(0.0), {}, longer)
    compared = {name: Answers(8, Estimate(10.0), 0.0, 0.0, {}, {}) for name in ("first", "new")}
    return Evaluation(compared, against, change, kl, is_kl=True, left_out=0)


@pytest.mark.parametrize(
    ("against", "longer", "kl", "reason"),
    [
        ({"first": rate(0.6)}, about(1.2, 1.1), about(3.0), None),
        # A gain is not ruled out by the interval, whatever the rate is.
        ({"first": rate(0.45, 0.3, 0.6)}, about(1.0, 0.9), None, None),
        ({"first": rate(0.5, 0.499, 0.501)}, about(1.0, 0.9), None, None),
        (
            {"first": rate(0.4, 0.3, 0.5)},
            about(1.0, 0.9),
            None,
            "no gain: a win rate of 40% of 8 (95%: 30% to 50%) against the model before",
        ),
        # The round before is what a gain is over.
        ({"first": rate(0.9), "previous": rate(0.2, 0.1, 0.4)}, about(1, 1), None, "no gain"),
        ({"first": rate(0.2, 0.1, 0.4), "previous": rate(0.9)}, about(1, 1), None, None),
        ({"first": rate(0.9)}, about(2.5, 1.9), None, None),
        ({"first": rate(0.9)}, about(2.5, 2.0), None, None),
        (
            {"first": rate(0.9)},
            about(2.5, 2.1),
            None,
            "answers grew to 2.50 (2.10 to 3.50) times the first model's words",
        ),
        ({"first": rate(0.9)}, Estimate(None), None, None),
        ({"first": rate(0.9)}, about(1, 1), about(9.0, 7.9), None),
        (
            {"first": rate(0.9)},
            about(1, 1),
            about(9.0, 8.1),
            "the model moved 9.00 (8.10 to 10.00) nats per answer away",
        ),
        ({"first": rate(None)}, about(1, 1), None, "no verdict of the judge could be read"),
    ],
)
def test_the_loop_stops_where_a_whole_interval_is_past_a_limit(
    against: dict[str, WinRate], longer: Estimate, kl: Estimate | None, reason: str | None
) -> None:
    found = module._reason_to_stop(evaluated(against, longer, kl), StopRules(kl=8.0))
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


TOO_LONG = about(2.5, 2.1)


@pytest.mark.parametrize(
    ("rounds_", "number", "why"),
    [
        ([evaluated({"first": rate(0.6, 0.55, 0.7)})], 1, "round 1: a win rate of 60% of 8"),
        # Not the last; of equal ones the earlier.
        ([evaluated({"first": rate(r)}) for r in (0.6, 0.7, 0.7, 0.5)], 2, "the highest"),
        # Longer than the limit, or unread: not compared.
        (
            [evaluated({"first": rate(0.6)}), evaluated({"first": rate(0.9)}, TOO_LONG)],
            1,
            "not round 2: answers grew to 2.50",
        ),
        ([evaluated({"first": rate(0.6)}), evaluated({"first": rate(None)})], 1, "60%"),
        (
            [evaluated({"first": rate(0.6)}), evaluated({"first": rate(0.9)}, kl=about(9.0, 8.5))],
            1,
            "not round 2: the model moved 9.00",
        ),
        # The first model has one half by definition.
        ([evaluated({"first": rate(0.45)}), evaluated({"first": rate(0.5)})], 0, "round 2's win"),
        ([evaluated({"first": rate(None)})], 0, "no round can be compared with it"),
        ([evaluated({"first": rate(0.9)}, TOO_LONG)], 0, "not round 1: answers grew"),
        ([evaluated({"first": rate(0.6, 0.4, 0.8)})], 1, "does not show that it is better"),
    ],
)
def test_the_best_round_is_named_and_not_the_last(
    rounds_: list[Evaluation], number: int, why: str
) -> None:
    made = [Round(i, f"model-{i}", [], found) for i, found in enumerate(rounds_, 1)]
    found = best(made, "base", StopRules(kl=8.0))
    assert (found.round, found.model) == (number, f"model-{number}" if number else "base")
    assert why in found.why


def test_a_round_that_changes_nothing_is_the_last(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    done = align(recipe(), tmp_path / "out", 3)
    assert len(done.rounds) == len(trained_on) == 1
    assert done.stopped == "no gain: all 5 comparisons with the model before are ties"
    assert "stopped after round 1: no gain" in table(done)
    assert "stopped" in (tmp_path / "out" / "align.json").read_text()


def test_held_out_prompts_that_are_trained_on_are_refused_before_anything_is_made(
    recipe: Load, trained_on: list[tuple[str, str]], project: Path, tmp_path: Path
) -> None:
    seen = [{"id": f"h{i}", "prompt": f"Tell me  about {i} cats."} for i in range(8, 20)]
    (project / "held-out.jsonl").write_text("".join(json.dumps(r) + "\n" for r in seen))
    out = tmp_path / "out"
    said = (
        r"recipe.yaml:\d+ evaluation.source: 4 of its 12 prompts are also in the source that is "
        r"trained on \(the first, 'h8': 'Tell me about 8 cats.'\)"
    )
    with pytest.raises(RecipeError, match=said):
        align(recipe(), out, 1)
    assert trained_on == []
    assert not (out / "round-1").exists()
    align(recipe("source.limit=8"), out, 1)  # those rows are never made data of


def test_figures_of_an_older_version_are_made_again(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = align(recipe(), out, 1)
    for path in (out / "align.json", out / "round-1" / "evaluation.json"):
        data = json.loads(path.read_text())
        data.pop("best", None)
        for found in [r["evaluation"] for r in data.get("rounds", [data])]:
            found["log_ratio"] = 0.25
            del found["change"]["length_ratio"]
        path.write_text(json.dumps(data))
    assert align(recipe(), out, 1) == made
    assert msgspec.json.decode((out / "align.json").read_bytes(), type=Alignment) == made


def test_figures_are_kept_until_what_decides_them_changes(
    recipe: Load,
    trained_on: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = align(recipe(), tmp_path / "out", 1)
    monkeypatch.setattr(comparing, "log_ratio", lambda *_, **__: about(7.0))
    assert align(recipe(), tmp_path / "out", 1) == first
    other = align(recipe("evaluation.principles=1"), tmp_path / "out", 1)
    assert other.rounds[0].evaluation.log_ratio == about(7.0)


def test_a_log_ratio_that_fails_costs_no_round(
    recipe: Load,
    trained_on: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> float:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(comparing, "log_ratio", fail)
    result = align(recipe(), tmp_path / "out", 1)
    assert result.rounds[0].evaluation.log_ratio is None
    monkeypatch.setattr(comparing, "log_ratio", lambda *_, **__: about(7.0))
    assert align(recipe(), tmp_path / "out", 1).rounds[0].evaluation.log_ratio == about(7.0)


def test_the_rounds_before_a_failure_are_shown(
    recipe: Load,
    trained_on: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train = module.train_in_child_process

    def failing(training: TrainingConfig, data: Path, model: str, out: Path) -> dict[str, Any]:
        if "round-2" in str(out):
            raise FactoryError("out of memory")
        return train(training, data, model, out)

    monkeypatch.setattr(module, "train_in_child_process", failing)
    with pytest.raises(FactoryError, match="out of memory"):
        align(recipe(NEVER), tmp_path / "out", 2)
    said = capfd.readouterr().err
    assert "so far:" in said
    assert "the best model: " in said


def test_two_do_not_align_in_one_folder(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    with (
        alone_in(tmp_path / "out"),
        pytest.raises(FactoryError, match="another factory process is working in"),
    ):
        align(recipe(), tmp_path / "out", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(FactoryError, match=r"cannot write in .*file"):
        align(recipe(), tmp_path / "file", 1)
    assert trained_on == []


def test_a_round_that_was_trained_on_keeps_its_data(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    run = module.run_with_trainings

    def noted(recipe: Recipe, out: Path, *, progress: Progress, retries: bool) -> Manifest:
        tried.append((out.parent.name, retries))
        return run(recipe, out, progress=progress, retries=retries)

    monkeypatch.setattr(module, "run_with_trainings", noted)
    align(recipe(NEVER), tmp_path / "out", 1)
    align(recipe(NEVER), tmp_path / "out", 2)
    assert tried == [("round-1", True), ("round-1", False), ("round-2", True)]


def test_a_model_called_as_one_of_those_compared_is_refused(
    recipe: Load, trained_on: list[tuple[str, str]], project: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load((project / "recipe.yaml").read_text())
    data["models"]["new"] = {"model": "smollm2-135m-instruct"}
    (project / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:\d+ models.new: 'new' is a name that align uses"
    ):
        align(recipe(), tmp_path / "out", 1)


def test_what_the_evaluation_inherits(
    recipe: Load, trained_on: list[tuple[str, str]], tmp_path: Path
) -> None:
    align(recipe("max_failure_rate=0.5"), tmp_path / "out", 1)
    written = yaml.safe_load((tmp_path / "out" / "round-1" / "evaluation.yaml").read_text())
    assert written["max_failure_rate"] == 0.5


def test_a_score_of_the_evaluation_is_checked_with_the_recipe(
    recipe: Load, trained_on: list[tuple[str, str]]
) -> None:
    with pytest.raises(RecipeError, match=r"evaluation.scores\[0\].how"):
        recipe("evaluation.scores=[{kind: verify, how: maths}]")


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
