"""What is tried before the work: one call of each kind, and only where a call is owed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import EngineError, FactoryError, RecipeError
from factory.engines import build
from factory.engines.base import Request, Sampling
from factory.engines.endpoint import EndpointEngine
from factory.engines.endpoint_config import EndpointConfig
from factory.engines.vllm import VllmEngine
from factory.pipeline.manifest import Manifest
from factory.pipeline.preflight import Preflight
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.pipeline.traces import read_samples
from factory.recipe.recipe import Recipe
from factory.recipe.registry import STAGES
from factory.scorers.judging import Judges
from factory.stages.base import Stage
from tests.fakes import FakeEngine
from tests.servers import FakeServer, Reply, completion, failure, free_port

SERVED = (
    "models.policy={engine: endpoint, model: p, base_url: 'URL', max_retries: 0}",
    "models.judge={engine: endpoint, model: j, base_url: 'URL', max_retries: 0}",
    "stages.3.model=judge",
)
LOGPROBS = {
    "content": [
        {"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "A", "logprob": -0.1}]},
    ]
}


def served(recipe: Callable[..., Recipe], url: str, *overrides: str) -> Recipe:
    return recipe(
        *(text.replace("URL", url) for text in SERVED), "source.limit=3", "views=[]", *overrides
    )


class Server(FakeServer):
    """Writes, continues and judges, but for what it `lacks`: a prefix, logprobs, labels."""

    def __init__(self, lacks: str = "", *replies: Reply) -> None:
        super().__init__(*replies)
        self.lacks = lacks

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> Reply:
        reply = super().answer(path, body, key)
        if reply.status != 200 or path == "/v1/models":
            return reply
        if self.lacks == "prefix" and "continue_final_message" in body:
            return failure(400, "unknown field continue_final_message")
        if self.lacks == "short answers" and body["max_tokens"] == 1:
            return failure(400, "max_tokens must be 16 or more")
        if self.lacks == "money":
            return failure(402, "no credit")
        if "top_logprobs" in body and self.lacks != "logprobs":
            return completion("A", logprobs=LOGPROBS)
        if "End your reply with this line" in body["messages"][-1]["content"]:
            return completion("It is kinder. The better answer is (A).")
        return completion(f"An answer to {len(self.calls)}.")


def run(
    recipe: Recipe, out: Path, engines: dict[str, Any] | None = None
) -> tuple[Manifest, dict[str, Any]]:
    """The manifest, and the engines that made it."""

    async def main() -> Manifest:
        try:
            return await run_async(recipe, out, engines=made, progress=Progress(is_quiet=True))
        finally:
            for engine in made.values():
                await engine.close()

    made: dict[str, Any] = {**build(recipe.models, recipe.folder, None), **(engines or {})}
    return asyncio.run(main()), made


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("prefix", ["unknown field", "continue_final_message", "as vLLM", "name another"]),
        ("logprobs", ["gives no log-probabilities", "enable them there"]),
    ],
)
def test_a_server_that_cannot_judge_is_found_before_all_generation(
    recipe: Callable[..., Recipe], tmp_path: Path, lacks: str, said: list[str]
) -> None:
    began = time.monotonic()
    with Server(lacks) as server, pytest.raises(EngineError) as caught:
        run(served(recipe, server.url, "stages.3.estimator=logprob"), tmp_path / "run")
    assert time.monotonic() - began < 60
    for words in [*said, "stage 'judge'", "model 'judge'", "A, B", server.url]:
        assert words in str(caught.value)
    assert all(call["max_tokens"] == 1 for call in server.calls), "nothing was generated"
    assert len(server.calls) == 3  # of 24 tokens (generate, revise), of 16 (critique), the judge's


def test_a_judge_without_log_probabilities_gives_verdicts_which_the_card_says(
    recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader of cards must know by what a judge was read. What was found out is remembered."""
    views = "views=[{kind: preference, pairs: revision_vs_initial}]"
    with Server("logprobs") as server:
        manifest, _ = run(served(recipe, server.url, views), tmp_path / "run")
        asked = len(server.calls)
        (tmp_path / "run" / "manifest.json").unlink()
        run(served(recipe, server.url, views), tmp_path / "run")
        assert len(server.calls) == asked
    assert "'judge' is read by sampled verdicts, as it shows no log-probabilities" in caplog.text
    [sample, *_] = read_samples(tmp_path / "run")
    [reading, swapped, *_] = sample.verdicts[0].readings
    assert (reading.estimator, reading.draws, reading.p, swapped.p) == ("sampled", 4, 1.0, 0.0)
    assert (reading.variance, len(reading.calls)) == (0.0, 4)
    assert manifest.views[0]["judges"]["judge"]["reading"] == {
        "estimators": ["sampled"],
        "draws": 4,
        "has_thoughts": False,
        "standard_error": 0.0,
    }
    card = (tmp_path / "run" / "datasets" / "preference" / "README.md").read_text()
    assert "4 sampled verdicts, standard error 0.000" in card


def test_what_is_tried_is_neither_remembered_nor_counted(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with Server() as server:
        manifest, engines = run(served(recipe, server.url), tmp_path / "run")
    made = sum(stage.made for stage in manifest.stages.values())
    assert sum(engine.stats().calls for engine in engines.values()) == made
    tried = [call for call in server.calls if call["messages"] == server.calls[0]["messages"]]
    assert len(server.calls) > made
    assert tried
    with Server() as other:
        run(served(recipe, other.url), tmp_path / "again")
    assert len(other.calls) == len(server.calls)


def test_a_run_that_is_all_remembered_makes_no_call(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with Server() as server:
        run(served(recipe, server.url), tmp_path / "run")
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    run(served(recipe, nobody), tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    manifest, _ = run(served(recipe, nobody), tmp_path / "run")
    assert sum(stage.made for stage in manifest.stages.values()) == 0
    assert manifest.state == "finished"


def test_stages_before_the_first_call_that_is_owed_are_not_tried(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with Server() as server:
        run(served(recipe, server.url), tmp_path / "run")
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    with Server() as server:
        gone = f"models.policy.base_url={nobody}"
        other = "models.judge.model=another"
        manifest, _ = run(served(recipe, server.url, gone, other), tmp_path / "run")
    assert manifest.state == "finished"
    assert {call["model"] for call in server.calls} == {"another"}


def test_a_failure_of_one_call_stops_nothing(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    broken = Reply(200, {"choices": [{"finish_reason": "error"}]})
    with Server("", *[broken] * 4) as server:
        manifest, _ = run(served(recipe, server.url), tmp_path / "run")
    assert manifest.samples == 3


def test_a_failure_that_may_pass_is_tried_again(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    more = ("models.policy.max_retries=2", "models.judge.max_retries=2")
    with Server("", failure(503), failure(429)) as server:
        manifest, _ = run(served(recipe, server.url, *more), tmp_path / "run")
    assert manifest.samples == 3


def test_a_server_that_refuses_short_answers_is_asked_for_a_whole_one(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    only = "stages=[{kind: generate, model: policy}]"
    with Server("short answers") as server:
        run(served(recipe, server.url, only), tmp_path / "run")
    assert [call["max_tokens"] for call in server.calls[:3]] == [1, 256, 256]


def test_an_account_without_money_stops_the_run_at_once(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    with Server("money") as server, pytest.raises(EngineError, match="top up the account"):
        run(served(recipe, server.url), tmp_path / "run")
    assert not (tmp_path / "run" / "quarantine.jsonl").read_bytes()


def test_an_answer_longer_than_a_vllm_servers_context_is_found_first(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    only = "stages=[{kind: generate, model: policy, sampling: {max_tokens: 64}}]"
    cards = [{"id": "p", "owned_by": "vllm"}]
    with FakeServer(models=cards, context=64) as server, pytest.raises(EngineError) as caught:
        run(served(recipe, server.url, only), tmp_path / "run")
    assert "max_tokens 64 leaves no room" in str(caught.value)


def test_all_who_wait_for_a_trial_get_its_failure_and_it_is_made_once(
    recipe: Callable[..., Recipe],
) -> None:
    class Refusing(FakeEngine):
        async def check(self, request: Request) -> None:
            self.seen.append(request)
            await asyncio.sleep(0)
            raise EngineError("no")

    async def main() -> list[object]:
        preflight = Preflight(recipe(), {"policy": engine}, Judges({"policy": engine}))
        waiting = (preflight.before(position) for position in (2, 0, 3))
        return await asyncio.gather(*waiting, return_exceptions=True)

    engine = Refusing()
    failures = asyncio.run(main())
    assert [type(failure) for failure in failures] == [EngineError] * 3
    assert len(engine.seen) == 1
    assert str(failures[0]) == (
        "stage 'revise' asks the model 'policy' to write, which does not work: no"
    )


def test_an_engine_that_cannot_be_tried_is_not(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    engine = FakeEngine()
    manifest, _ = run(recipe("views=[]"), tmp_path / "run", {"policy": engine})
    assert len(engine.seen) == sum(stage.made for stage in manifest.stages.values())


KINDS: list[type[Stage]] = [
    kind
    for entry in STAGES.values()
    for kind in (entry.values() if isinstance(entry, dict) else [entry])
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_has_an_example_for_each_of_its_models(kind: type[Stage]) -> None:
    fields = {"model": "m", "judge": "j", "rule": {"kind": "length", "target": 3}}
    fields = {name: value for name, value in fields.items() if name in kind.model_fields}
    if kind.__name__ == "PointwiseJudge":
        fields["mode"] = "pointwise"
    stage = kind.model_validate({"kind": kind.model_fields["kind"].default, **fields})
    if kind.__name__ == "Rank":
        return
    judging = stage.judging()
    asked = {model for model, _ in stage.examples()} | ({judging.model} if judging else set())
    assert asked == set(stage.models_used().values())


@pytest.mark.engine
@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"labels": ("1", "10")}, EngineError, "'10' is 2 tokens"),
        ({"sampling": {"max_tokens": 1024}}, EngineError, "do not fit the model's context"),
        ({"sampling": {"max_tokens": 1, "extra": {"nope": 1}}}, RecipeError, "nope"),
    ],
)
def test_the_engine_finds_what_no_call_could_pass(
    engine: VllmEngine,
    loop: asyncio.Runner,
    asked: dict[str, Any],
    error: type[FactoryError],
    said: str,
) -> None:
    before = engine.stats().calls
    messages = [{"role": "user", "content": "Hello"}]
    sampling = {"temperature": 0.0, "max_tokens": 1}
    with pytest.raises(error, match=said):
        loop.run(engine.check(Request(messages, **{"sampling": sampling, **asked})))
    loop.run(engine.check(Request(messages, sampling, 0, labels=("A", "B"))))
    assert engine.stats().calls == before


def test_the_endpoint_counts_no_trial() -> None:
    async def main() -> int:
        config = EndpointConfig(engine="endpoint", model="m", base_url=server.url)
        engine = EndpointEngine(config)
        try:
            asked = Sampling(min_tokens=5, max_tokens=99).changed
            await engine.check(Request([{"role": "user", "content": "Hello"}], asked, 0))
            return engine.stats().calls
        finally:
            await engine.close()

    with FakeServer() as server:
        assert asyncio.run(main()) == 0
    [call] = server.calls
    assert (call["max_tokens"], call.get("min_tokens")) == (1, None)
