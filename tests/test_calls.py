from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import EngineError, LedgerError, SampleError
from factory.core.records import Sample
from factory.engines.base import Completion, Request, Sampling
from factory.engines.call_key import call_key
from factory.pipeline.calls import Calls
from factory.pipeline.ledger import Ledger
from factory.pipeline.manifest import Manifest
from factory.pipeline.progress import Progress
from factory.pipeline.run import run_async
from factory.recipe.recipe import Recipe
from factory.stages.base import Question
from factory.stages.models import SampleModels, StageCount
from tests.fakes import FakeEngine, said

GREEDY = {"temperature": 0.0, "max_tokens": 8}


class HeldEngine(FakeEngine):
    """Answers the n-th call when the test gives it an answer, or a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Future[Completion]] = []

    async def generate(self, request: Request) -> Completion:
        self.seen.append(request)
        self.held.append(asyncio.get_running_loop().create_future())
        return await self.held[-1]


def ask_for(text: str, **fields: object) -> Request:
    return Request([{"role": "user", "content": text}], GREEDY, **{"draw": 1, **fields})


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def with_calls(
    path: Path, engine: FakeEngine, body: Callable[[Calls], Awaitable[object]]
) -> object:
    """The result of `body`, given calls to `engine` as the model `m`."""

    path.mkdir(exist_ok=True)

    async def go() -> object:
        with Ledger(path / "ledger.sqlite") as ledger:
            return await body(Calls(ledger, {"m": engine}))

    return asyncio.run(go())


def test_a_call_is_made_once_and_remembered_by_the_next_run(tmp_path: Path) -> None:
    async def twice(calls: Calls) -> list[tuple[int, int]]:
        counts = StageCount(), StageCount()
        for count in counts:
            await calls.answer("m", [ask_for("x"), ask_for("y")], count)
        return [(c.made, c.remembered) for c in counts]

    engine = FakeEngine()
    assert with_calls(tmp_path, engine, twice) == [(2, 0), (0, 2)]
    assert with_calls(tmp_path, engine, twice) == [(0, 2), (0, 2)]
    assert len(engine.seen) == 2


def test_answers_that_were_cut_are_counted_remembered_or_not(tmp_path: Path) -> None:
    class Cuts(FakeEngine):
        async def generate(self, request: Request) -> Completion:
            completion = await super().generate(request)
            if request.labels or request.messages[0]["content"] == "long":
                completion.finish_reason = "length"
            return completion

    async def body(calls: Calls) -> tuple[int, int]:
        count = StageCount()
        models = SampleModels(calls, None, Sample("s", 0, []), 7, count)
        asked = [Question([{"role": "user", "content": x}], Sampling()) for x in ("long", "short")]
        verdict = Question(asked[0].messages, Sampling(), labels=("A", "B"))
        await models.ask("m", [*asked, asked[0], verdict])
        total = StageCount(answers=1)
        total.add(count)
        return total.answers, total.cut

    for _ in range(2):
        assert with_calls(tmp_path, Cuts(), body) == (4, 2)


def test_answers_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    async def body(calls: Calls) -> None:
        (known,) = await calls.answer("m", [ask_for("b")], StageCount())
        answers = await calls.answer("m", [ask_for(t) for t in "abca"], StageCount())
        assert answers[1].call == known.call
        assert answers[1].completion == known.completion
        assert answers[0].completion == answers[3].completion
        assert len({a.completion.text for a in answers}) == 3
        assert [a.call for a in answers] == [call_key("fake", ask_for(t)).hex() for t in "abca"]

    engine = FakeEngine(slowness=0.001)
    with_calls(tmp_path, engine, body)


def test_a_call_in_flight_is_joined_and_not_made_again(tmp_path: Path) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> None:
        first, second = StageCount(), StageCount()
        one = asyncio.create_task(calls.answer("m", [ask_for("x")], first))
        two = asyncio.create_task(calls.answer("m", [ask_for("x")], second))
        await settle()
        engine.held[0].set_result(said("yes"))
        assert [a.completion.text for a in await one + await two] == ["yes", "yes"]
        assert (first.made, first.remembered) == (1, 0)
        assert (second.made, second.remembered) == (0, 1)

    with_calls(tmp_path, engine, body)
    assert len(engine.seen) == 1


def test_the_same_question_twice_at_once_is_one_call(tmp_path: Path) -> None:
    engine, count = FakeEngine(), StageCount()
    with_calls(tmp_path, engine, lambda c: c.answer("m", [ask_for("x"), ask_for("x")], count))
    assert len(engine.seen) == 1
    assert (count.made, count.remembered) == (1, 1)


def test_when_the_call_joined_fails_the_other_makes_it_itself(tmp_path: Path) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> None:
        first, second = StageCount(), StageCount()
        one = asyncio.create_task(calls.answer("m", [ask_for("x")], first))
        two = asyncio.create_task(calls.answer("m", [ask_for("x")], second))
        await settle()
        engine.held[0].set_exception(SampleError("no"))
        await settle()
        engine.held[1].set_result(said("yes"))
        with pytest.raises(SampleError, match="no"):
            await one
        assert [a.completion.text for a in await two] == ["yes"]
        assert (first.made, second.made, second.remembered) == (0, 1, 0)

    with_calls(tmp_path, engine, body)


def test_when_the_call_joined_is_cancelled_the_other_makes_it_itself(tmp_path: Path) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> None:
        one, two, three = (
            asyncio.create_task(calls.answer("m", [ask_for("x")], StageCount())) for _ in range(3)
        )
        await settle()
        one.cancel()
        await settle()
        assert len(engine.seen) == 2  # one of the two others makes it, the third joins that
        engine.held[1].set_result(said("yes"))
        assert [a.completion.text for a in await two + await three] == ["yes", "yes"]
        assert one.cancelled()

    with_calls(tmp_path, engine, body)
    assert len(engine.seen) == 2


def test_cancelling_one_that_joined_does_not_disturb_the_call(tmp_path: Path) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> None:
        one, two = (
            asyncio.create_task(calls.answer("m", [ask_for("x")], StageCount())) for _ in range(2)
        )
        await settle()
        two.cancel()
        await settle()
        engine.held[0].set_result(said("yes"))
        assert [a.completion.text for a in await one] == ["yes"]

    with_calls(tmp_path, engine, body)


def test_one_failure_fails_all_when_all_have_ended_and_keeps_what_succeeded(
    tmp_path: Path,
) -> None:
    engine, count = HeldEngine(), StageCount()

    async def body(calls: Calls) -> None:
        asked = asyncio.create_task(calls.answer("m", [ask_for(t) for t in "xyz"], count))
        await settle()
        engine.held[1].set_exception(SampleError("too long"))
        await settle()
        assert not asked.done()
        engine.held[0].set_result(said("x"))
        engine.held[2].set_result(said("z"))
        with pytest.raises(SampleError, match="too long"):
            await asked
        again = StageCount()
        await calls.answer("m", [ask_for("x"), ask_for("z")], again)
        assert (again.made, again.remembered) == (0, 2)

    with_calls(tmp_path, engine, body)
    assert count.made == 2


def test_an_engine_that_is_gone_is_the_runs_failure_even_beside_a_bad_sample(
    tmp_path: Path,
) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> None:
        asked = asyncio.create_task(calls.answer("m", [ask_for("x"), ask_for("y")], StageCount()))
        await settle()
        engine.held[0].set_exception(SampleError("too long"))
        engine.held[1].set_exception(EngineError("gone"))
        with pytest.raises(EngineError, match="gone"):
            await asked

    with_calls(tmp_path, engine, body)


def test_cancelling_several_calls_at_once_cancels_them_in_the_engine(tmp_path: Path) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> None:
        asked = asyncio.create_task(calls.answer("m", [ask_for("x"), ask_for("y")], StageCount()))
        await settle()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert [held.cancelled() for held in engine.held] == [True, True]

    with_calls(tmp_path, engine, body)


def test_tokens_are_counted_whether_made_or_remembered(tmp_path: Path) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> StageCount:
        count = StageCount()
        asked = asyncio.create_task(calls.answer("m", [ask_for("x"), ask_for("y")], count))
        await settle()
        engine.held[0].set_result(Completion("x", "stop", 100, 64, 7))
        engine.held[1].set_result(Completion("y", "stop", 20, 0, 3))
        await asked
        await calls.answer("m", [ask_for("y")], count)
        return count

    assert with_calls(tmp_path, engine, body) == StageCount(2, 1, 140, 64, 13, 0.0)


def test_counts_add_up() -> None:
    count = StageCount(1, 2, 3, 4, 5, 6.0)
    count.add(StageCount(10, 20, 30, 40, 50, 60.0))
    assert count == StageCount(11, 22, 33, 44, 55, 66.0)


@pytest.mark.parametrize(
    ("said_by_model", "kept"),
    [
        ("cut in half \ud83d", "cut in half \ufffd"),
        ("\ude00 other half", "\ufffd other half"),
        ("\ud83d\ude00 whole in two halves", "😀 whole in two halves"),
        ("NUL \0 and 日本語 😀", "NUL \0 and 日本語 😀"),
    ],
)
def test_text_that_utf_8_cannot_hold_stops_nothing(
    tmp_path: Path, said_by_model: str, kept: str
) -> None:
    engine = HeldEngine()

    async def body(calls: Calls) -> str:
        asked = asyncio.create_task(calls.answer("m", [ask_for("x")], StageCount()))
        await settle()
        engine.held[0].set_result(said(said_by_model))
        (answer,) = await asked
        assert answer.completion.text == kept
        return answer.call

    call = with_calls(tmp_path, engine, body)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        remembered = ledger.get(bytes.fromhex(str(call)))
    assert remembered is not None
    assert remembered.text == kept


# What a stage sees -----------------------------------------------------------------------------


def asked_by(sample: Sample, path: Path, *questions: Question, seed: int = 7) -> list[Request]:
    engine = FakeEngine()

    async def body(calls: Calls) -> None:
        await SampleModels(calls, None, sample, seed, StageCount()).ask("m", questions)

    with_calls(path, engine, body)
    return engine.seen


def question(*salt: object) -> Question:
    return Question([{"role": "user", "content": "hi"}], Sampling(max_tokens=8), salt=salt)


def test_a_question_becomes_a_request_of_its_sample(tmp_path: Path) -> None:
    full = Question(
        [{"role": "user", "content": "hi"}],
        Sampling(temperature=0.5, top_p=0.9, max_tokens=8),
        salt=("generate", 0),
        prefix="The",
    )
    (request,) = asked_by(Sample("p0", 41, []), tmp_path, full)
    assert request == Request(
        messages=[{"role": "user", "content": "hi"}],
        sampling={"temperature": 0.5, "max_tokens": 8, "top_p": 0.9},
        draw=1228319363,  # blake2b of b"7\x1fp0\x1fgenerate\x1f0", 4 bytes: 926d5507 >> 1
        prefix="The",
        priority=41,
    )


def test_draws_differ_by_salt_sample_and_recipe(tmp_path: Path) -> None:
    seeds = {
        request.draw
        for i, (sample_id, seed) in enumerate([("p0", 7), ("p1", 7), ("p0", 8)])
        for request in asked_by(
            Sample(sample_id, i, []), tmp_path, question("a"), question("b"), seed=seed
        )
    }
    assert len(seeds) == 6


def test_a_draw_does_not_depend_on_the_samples_place_in_the_source(tmp_path: Path) -> None:
    first = asked_by(Sample("p0", 0, []), tmp_path / "1", question("a"))
    later = asked_by(Sample("p0", 99, []), tmp_path / "2", question("a"))
    assert first[0].draw == later[0].draw


@pytest.mark.parametrize(("reproducible", "seeds"), [("true", 72), ("false", 0)])
def test_the_engine_is_seeded_with_the_draw_where_the_recipe_says_so(
    recipe: Callable[..., Recipe], tmp_path: Path, reproducible: str, seeds: int
) -> None:
    """12 samples x (2 answers, 2 critiques, 2 revisions) are sampled; verdicts are not."""
    quiet = Progress(is_quiet=True)

    async def run(engine: FakeEngine, *overrides: str) -> Manifest:
        engines = {"policy": engine}
        return await run_async(
            recipe(*overrides), tmp_path / "run", engines=engines, progress=quiet
        )

    engine, again = FakeEngine(), FakeEngine()
    manifest = asyncio.run(run(engine, f"reproducible={reproducible}"))
    seeded = [request for request in engine.seen if request.seed is not None]
    assert len(seeded) == seeds
    assert all(request.seed == request.draw != 0 for request in seeded)
    assert manifest.reproducible is (seeds > 0)
    card = (tmp_path / "run/datasets/preference/README.md").read_text()
    assert ("the engine was seeded for every sampled call" in card) is (seeds > 0)
    # Another setting makes no call anew, and does not make seeded what was not.
    other = "true" if reproducible == "false" else "false"
    manifest = asyncio.run(run(again, f"reproducible={other}", "source.limit=11"))
    assert again.seen == []
    assert manifest.reproducible is False


@pytest.mark.parametrize("how", [{"labels": ("A", "B")}, {"sampling": Sampling(temperature=0)}])
def test_where_nothing_is_sampled_the_draw_is_zero(tmp_path: Path, how: dict[str, Any]) -> None:
    fields = {"sampling": Sampling(), "salt": ("generate", 0), **how}
    question = Question([{"role": "user", "content": "hi"}], **fields)
    assert asked_by(Sample("p0", 41, []), tmp_path, question)[0].draw == 0


def test_samples_that_ask_in_one_turn_share_one_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[int] = []
    really = Ledger.get_many

    def counted(ledger: Ledger, keys: Any) -> dict[bytes, Completion]:
        queries.append(len(keys))
        return really(ledger, keys)

    monkeypatch.setattr(Ledger, "get_many", counted)

    async def body(calls: Calls) -> None:
        asked = [
            asyncio.create_task(
                calls.answer("m", [ask_for(f"{i}a"), ask_for(f"{i}b")], StageCount())
            )
            for i in range(50)
        ]
        asked[7].cancel()  # before its first step
        await asyncio.sleep(0)
        asked[8].cancel()  # while it waits for the look-up: the others must not notice
        results = await asyncio.gather(*asked, return_exceptions=True)
        cancelled = [i for i, r in enumerate(results) if isinstance(r, asyncio.CancelledError)]
        assert cancelled == [7, 8]
        assert all(len(r) == 2 for r in results if isinstance(r, list))

    with_calls(tmp_path, FakeEngine(), body)
    assert queries == [98]


def test_a_ledger_that_cannot_be_read_fails_everyone_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ledger: Ledger, keys: object) -> dict[bytes, Completion]:
        raise LedgerError("no more")

    monkeypatch.setattr(Ledger, "get_many", broken)

    async def body(calls: Calls) -> None:
        asked = (calls.answer("m", [ask_for(t)], StageCount()) for t in "xy")
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(r) for r in results] == ["no more", "no more"]

    with_calls(tmp_path, FakeEngine(), body)


@pytest.mark.parametrize(
    "odd",
    [
        Completion("x", "stop", 1, 0, 1, {"A": None}),  # type: ignore[dict-item]
        Completion("x", "stop", 1, 0, 2**31),
        Completion("x", "stop", 1.5, 0, 1),  # type: ignore[arg-type]
        Completion(["x"], "stop", 1, 0, 1),  # type: ignore[arg-type]
        None,
    ],
)
def test_an_answer_that_cannot_be_kept_costs_its_sample_alone(tmp_path: Path, odd: Any) -> None:
    engine, count = HeldEngine(), StageCount()

    async def body(calls: Calls) -> None:
        asked = asyncio.create_task(calls.answer("m", [ask_for("x"), ask_for("y")], count))
        await settle()
        engine.held[0].set_result(odd)
        engine.held[1].set_result(said("fine"))
        with pytest.raises(SampleError, match="cannot be stored") as caught:
            await asked
        assert not caught.value.is_permanent
        again = StageCount()
        [fine] = await calls.answer("m", [ask_for("y")], again)
        assert (fine.completion.text, again.remembered) == ("fine", 1)

    with_calls(tmp_path, engine, body)
    assert (count.made, count.output_tokens) == (1, 0)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert len(ledger) == 1
