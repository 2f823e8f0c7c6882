"""Shared by all tests: folders to work in, a recipe to start from, and one real engine a session."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import settings

from factory.core import weights
from factory.engines.vllm import VllmConfig, VllmEngine
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from tests.thinking import SOLUTION, save_chained
from tests.tiny import cut_tokenizer, save, save_llama

# The same examples in every run, and none too slow on a busy machine. New ones: --hypothesis-profile default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]

CONSTITUTION = {
    "name": "kind",
    "version": "1.0.0",
    "principles": [
        {
            "id": "kind-words",
            "title": "Is kind",
            "critique": "Say where your answer is unkind.",
            "revision": "Rewrite it kindly.",
            "compare": "Which answer is kinder?",
        },
        {
            "id": "plain-words",
            "title": "Is plain",
            "critique": "Say where your answer is hard to read.",
            "revision": "Rewrite it plainly.",
            "compare": "Which answer is plainer?",
        },
    ],
    "examples": [
        {
            "prompt": "How do I boil an egg?",
            "answer": "Look it up.",
            "critique": "That is rude and of no use.",
            "revision": "Put it in boiling water for eight minutes.",
        }
    ],
}
RECIPE = {
    "name": "test",
    "seed": 7,
    "source": {"path": "prompts.jsonl"},
    "constitution": "kind.yaml",
    "models": {"policy": {"model": weights.EMBEDDED, "max_model_len": 512}},
    "stages": [
        {"kind": "generate", "model": "policy", "n": 2, "sampling": {"max_tokens": 24}},
        {"kind": "critique", "model": "policy", "sampling": {"max_tokens": 16}},
        {"kind": "revise", "model": "policy", "sampling": {"max_tokens": 24}},
        {"kind": "judge", "model": "policy", "principles": 2},
    ],
    "views": [{"kind": "preference", "pairs": "revision_vs_initial"}, {"kind": "sft"}],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a constitution, twelve prompts and a recipe, to edit."""
    return make_project(tmp_path)


def make_project(tmp_path: Path) -> Path:
    """The same in a folder that is there."""
    (tmp_path / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION, sort_keys=False))
    rows = [{"id": f"p{i}", "prompt": f"Tell me about {i} cats."} for i in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return tmp_path


@pytest.fixture
def recipe(project: Path) -> Callable[..., Recipe]:
    """Loads the project's recipe, with overrides."""

    def loaded(*overrides: str) -> Recipe:
        return load(project / "recipe.yaml", overrides)

    return loaded


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The embedded model's folder."""
    return weights.embedded_model()


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The embedded model's, with fewer tokens."""
    return cut_tokenizer(model_dir, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama to train, with random weights. Tests only read it."""
    return save_llama(tmp_path_factory.mktemp("tiny"), tokenizer)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight prompts for an online training."""
    asked = [[{"role": "user", "content": f"Is {n} a number?"}] for n in range(8)]
    rows = [{"prompt": prompt, "tags": []} for prompt in asked]
    return save(rows, tmp_path_factory.mktemp("prompts") / "d.jsonl")


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """The one event loop that the real engine lives in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def engine(loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """The one real engine of the session: the embedded model in float32. Starting takes ~30 s."""
    config = VllmConfig(
        model=weights.EMBEDDED,
        dtype="float32",
        max_model_len=1024,
        engine_args={"kv_cache_memory_bytes": 512 << 20},
    )
    made = VllmEngine(config, log=tmp_path_factory.mktemp("engine") / "engine.log")
    yield made
    loop.run(made.close())


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals rest on 200 resamples."""
    monkeypatch.setattr("factory.stats.bootstrap._RESAMPLES", 200)


SCRIPT = """
import asyncio, factory
print("begin")
async def cell():
    return factory.run({recipe!r}, {out!r}, overrides={overrides!r})
made = asyncio.run(cell())
print("made", made.manifest.samples)
"""


class Scripted(NamedTuple):
    """A run by a script of its own."""

    folder: Path
    ended: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def process_reward(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    """The shipped recipe, run to its end by a script without a guard, in a running loop. Its policy is
    a tiny model that is right half the time; engines and training are real."""
    where = tmp_path_factory.mktemp("process-reward")
    sums = save(
        [{"prompt": f"What is {n} + {5 - n}?", "reference": "5"} for n in range(6)],
        where / "sums.jsonl",
    )
    small = {"max_model_len": 512, "engine_args": {"kv_cache_memory_bytes": 64 << 20}}
    policy = save_chained(where, tokenizer, SOLUTION)
    overrides = {
        "source": {"path": str(sums)},
        "models.policy": {"model": str(policy), **small},
        "models.prm": {"model": "trained:prm", "task": "token_classify", **small},
        "stages.1.truncated": False,
        "training.0.config.max_steps": 2,
    }
    recipe, script = ROOT / "pipelines" / "process-reward.yaml", where / "script.py"
    run = {"recipe": str(recipe), "out": str(where / "run"), "overrides": overrides}
    script.write_text(SCRIPT.format(**run))
    # Compiling the sampler takes longer than all else.
    env = os.environ | {"TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return Scripted(where / "run", ended)


@pytest.fixture(autouse=True)
def _quiet_tokenizers() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
