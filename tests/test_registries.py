"""What a kind of one's own costs: a file, and a line in a registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from datasets import load_from_disk

from factory.align.loop import align
from factory.core.errors import RecipeError
from factory.core.records import Sample, Score
from factory.pipeline import traces
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from factory.scorers import SCORERS
from factory.stages.base import Models, Stage
from factory.training import TRAINERS, Listed, trainer_of
from factory.training.offline.sft import Sft
from factory.training.online.rewards import build_rewards, parse_rewards
from tests.fakes import FakeEngine
from tests.test_align import trained_on  # noqa: F401
from tests.test_cli import Call, call  # noqa: F401


class Patient(Sft):
    """Supervised fine-tuning at a rate of its own."""

    kind = "patient"
    defaults = {**Sft.defaults, "learning_rate": 3e-7}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINERS, "patient", Listed(f"{__name__}:Patient", ("sft",)))


@pytest.mark.usefixtures("patient")
def test_a_trainer_is_a_class_and_a_line(
    call: Call,  # noqa: F811
    tiny: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Is 1 a number?", "completion": "Yes, it is."}\n' * 2)
    out = tmp_path / "out"
    asked = ["train", "patient", "--data", data, "--model", tiny, "--out", out]
    ended = call(*asked, "--set", "max_steps=1", "--set", "max_length=64")
    assert ended.code == 0, ended.err
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    assert record["kind"] == "patient"
    assert record["config"]["learning_rate"] == 3e-7


@pytest.mark.usefixtures("patient")
def test_a_recipe_names_it_and_its_view_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: mine\nsource: {path: prompts.jsonl}\nmodels: {policy: {model: smollm2-135m-instruct}}\n"
        "stages: [{kind: generate, model: policy}]\nviews: [{kind: sft}]\n"
        "training: [{kind: patient, model: policy}]\n"
    )
    [training] = load(recipe).training
    assert (training.view, training.result) == ("sft", "patient")


def test_every_kind_of_training_says_what_the_registry_says() -> None:
    for kind, listed in TRAINERS.items():
        trainer = listed.load()
        assert trainer.kind == kind
        writes = trainer.loaded_as == "AutoModelForCausalLM"
        assert writes == listed.trains_policy
    suggested = {view: trainer_of(view) for view in ("preference", "process", "reward", "none")}
    assert suggested == {"preference": "dpo", "process": "prm", "reward": "reward", "none": None}


# -- a scorer -------------------------------------------------------------------------------------


class Shouting(Stage):
    """Score each candidate by its exclamation marks."""

    kind: Literal["shouting"] = "shouting"
    name: str = "shouting"
    most: int = 3
    """More count as many."""

    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def facts_made(self) -> frozenset[str]:
        return frozenset({f"score:{self.name}", "ranking"})

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        for candidate in sample.answered():
            marks = min(self.most, candidate.text.count("!"))
            sample.scores.append(Score(self.name, candidate.index, float(marks)))
        return sample


@pytest.fixture
def shouting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "shouting", Shouting)


ENTRY = {"kind": "shouting", "name": "loud", "most": 2}
PAIRS = [
    {"prompt": "Loud?", "chosen": "Yes!", "rejected": "Yes."},
    {"prompt": "Louder?", "chosen": "Yes!", "rejected": "No!!!"},
]


@pytest.fixture
def scoring(shouting: None, tmp_path: Path) -> tuple[Path, Path]:
    """Pairs, and the recipe that scores them."""
    data, by = tmp_path / "pairs.jsonl", tmp_path / "by.yaml"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    by.write_text(yaml.safe_dump({"stages": [ENTRY]}))
    return data, by


@pytest.mark.usefixtures("shouting")
def test_a_scorer_is_a_stage_of_recipes(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    checked = recipe("stages.4={kind: shouting, name: loud, most: 2}")
    assert checked.stage_labels()[-1] == "shouting"
    engines, out = {"policy": FakeEngine()}, tmp_path / "out"
    asyncio.run(run_async(checked, out, engines=engines, progress=Progress(is_quiet=True)))
    for sample in traces.read_samples(out):
        assert {s.value for s in sample.scores if s.name == "loud"} == {0.0}
    with pytest.raises(RecipeError, match=r"shoutin'; did you mean 'shouting'\?.*rule, shouting,"):
        recipe("stages.4={kind: shoutin}")


def test_it_scores_a_dataset(
    call: Call,  # noqa: F811
    scoring: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    data, by = scoring
    ended = call("score", data, "--recipe", by, "--out", tmp_path / "scored")
    assert ended.code == 0, ended.err
    made = load_from_disk(str(tmp_path / "scored"))
    assert (made["chosen_loud"], made["rejected_loud"]) == ([1, 1], [0, 2])


def test_it_is_measured(
    call: Call,  # noqa: F811
    scoring: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    data, by = scoring
    said = tmp_path / "report.json"
    asked = ["eval", "reward", "--data", data, "--recipe", by, "--out", said]
    ended = call(*asked, "--work", tmp_path / "work")
    assert ended.code == 0, ended.err
    report = json.loads(said.read_text())
    assert (report["scorer"]["score"], report["rows"]) == ("loud", 2)
    assert report["report"]["overall"]["accuracy"]["value"] == 0.5


@pytest.mark.usefixtures("shouting")
@pytest.mark.parametrize("kind", ["grpo", "rloo", "ppo"])
def test_it_rewards_online_trainings(kind: str) -> None:
    TRAINERS[kind].check_options({"rewards": [{**ENTRY, "weight": 0.5}]})
    with pytest.raises(RecipeError, match=r"rewards\[0\].mst: unknown field; did you mean 'most'"):
        TRAINERS[kind].check_options({"rewards": [{"kind": "shouting", "mst": 2}]})


@pytest.mark.usefixtures("shouting")
def test_its_rewards_are_weighted_and_named_as_any() -> None:
    entries = [{**ENTRY, "weight": 0.5}, {"kind": "shouting"}, {"kind": "length", "target": 1}]
    assert list(parse_rewards(entries)) == ["loud", "shouting", "length"]
    with build_rewards(entries) as rewards:
        scored = rewards.score(["Hey?", "Ho?"], ["Hey!!!", "Ho ho"])
    assert scored.parts == {"loud": [2, 0], "shouting": [3, 0], "length": [0, -1]}
    assert scored.totals == [4, -1]


@pytest.mark.usefixtures("shouting", "trained_on")
def test_it_compares_models_in_align(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    score = "evaluation.scores=[{kind: shouting, name: loud}]"
    [done] = align(recipe("evaluation.judge=null", score), tmp_path / "out", 1).rounds
    assert done.evaluation.compared_by == "loud"
    assert done.evaluation.answers["new"].scores["loud"].value == 0.0
    with pytest.raises(RecipeError, match="did you mean 'shouting'"):
        recipe("evaluation.scores=[{kind: shoutin}]")
