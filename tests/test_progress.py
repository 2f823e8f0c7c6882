"""What a run says of itself: the arithmetic with a hand-driven clock, and what is printed."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from factory.engines.base import EngineStats, Sampling
from factory.pipeline.forecast import Forecast, Outlook
from factory.scorers.judge_pairwise import PairwiseJudge
from factory.stages.base import Stage
from factory.stages.critique import Criticize
from factory.stages.generate import Generate
from factory.stages.models import StageCount
from factory.stages.revise import Revise
from factory.training.common.progress import StepTimes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """An engine as the forecast sees it, and how fast it really is: up to `places` calls at once share
    `speed` output tokens a second (fewer than `knee` at once are slower in all), and a prompt token
    that is not cached takes `prefill` seconds of all of them."""

    def __init__(self, *, speed: float, places: int, prefill: float, knee: int = 16) -> None:
        self.speed, self.places, self.prefill, self.knee = speed, places, prefill, knee
        self.done = EngineStats()
        self.queue: list[tuple[int, int, Call]] = []
        self.running: list[Call] = []

    def stats(self) -> EngineStats:
        self.done.running = len(self.running)
        return self.done

    def work(self, seconds: float) -> None:
        while self.queue and len(self.running) < self.places:
            call = heapq.heappop(self.queue)[2]
            call.left = call.output + (call.prompt - call.cached) * self.prefill * self.speed
            self.running.append(call)
        if not self.running:
            return
        share = min(1.0, len(self.running) / self.knee)
        tokens = self.speed * share * seconds / len(self.running)
        for call in list(self.running):
            call.left -= tokens
            if call.left <= 0:
                self.running.remove(call)
                self.done.calls += 1
                self.done.prompt_tokens += call.prompt
                self.done.cached_tokens += call.cached
                self.done.output_tokens += call.output
                call.ended()


class Call:
    def __init__(self, prompt: int, cached: int, output: int, ended: Callable[[], None]) -> None:
        self.prompt, self.cached, self.output, self.ended = prompt, cached, output, ended
        self.left = 0.0


class Kind(NamedTuple):
    """What a stage's calls are really like."""

    calls: Callable[[random.Random], int]
    prompt: int
    cached: int
    output: Callable[[random.Random], int]
    machine: str = "policy"


STAGES: list[tuple[str, Stage]] = [
    ("generate", Generate(model="policy", n=2, sampling=Sampling(max_tokens=96))),
    ("critique", Criticize(model="policy", sampling=Sampling(max_tokens=48))),
    ("revise", Revise(model="policy", sampling=Sampling(max_tokens=96))),
    ("judge", PairwiseJudge(model="policy")),
]
KINDS = {
    "generate": Kind(lambda r: 2, 60, 40, lambda r: r.randint(8, 96)),
    "critique": Kind(lambda r: 2, 160, 100, lambda r: r.randint(20, 48)),
    "revise": Kind(lambda r: 2, 240, 200, lambda r: r.randint(8, 96)),
    "judge": Kind(lambda r: r.choice([2, 4, 4]), 300, 100, lambda r: 1),
}


def simulate(
    forecast: Forecast,
    machines: dict[str, Machine],
    kinds: dict[str, Kind],
    rows: int,
    clock: Clock,
    *,
    step: float = 0.1,
    in_ledger: Callable[[int, str], bool] = lambda row, stage: False,
    fails: Callable[[int], bool] = lambda row: False,
) -> Iterator[Outlook]:
    """Take rows through the stages, each call on its machine, older rows first; looks every second."""
    rng = random.Random(7)
    order = itertools.count()
    labels = list(kinds)
    open_rows = 0

    def enter(row: int, counts: dict[str, StageCount], at: int) -> None:
        nonlocal open_rows
        while at < len(labels) and not (at == 2 and fails(row)):
            label = labels[at]
            kind, count = kinds[label], StageCount()
            counts[label] = count
            calls = [(kind.prompt, kind.cached, kind.output(rng)) for _ in range(kind.calls(rng))]
            if not in_ledger(row, label):
                ask(row, counts, at, calls)
                return
            count.remembered += len(calls)
            add(count, calls)
            at += 1
        forecast.end(counts, failed=at < len(labels))
        open_rows -= 1

    def add(count: StageCount, calls: list[tuple[int, int, int]]) -> None:
        for prompt, cached, output in calls:
            count.prompt_tokens += prompt
            count.cached_tokens += cached
            count.output_tokens += output

    def ask(
        row: int, counts: dict[str, StageCount], at: int, calls: list[tuple[int, int, int]]
    ) -> None:
        label = labels[at]
        count, waiting = counts[label], len(calls)

        def ended() -> None:
            nonlocal waiting
            count.made += 1
            waiting -= 1
            if not waiting:
                add(count, calls)
                enter(row, counts, at + 1)

        for prompt, cached, output in calls:
            machine = machines[kinds[label].machine]
            heapq.heappush(machine.queue, (row, next(order), Call(prompt, cached, output, ended)))

    for row in range(rows):
        open_rows += 1
        enter(row, forecast.begin(), 0)
    yield forecast.look()
    while open_rows:
        clock.now += step
        for machine in machines.values():
            machine.work(step)
        yield forecast.look()


def worst(outlooks: list[tuple[float, Outlook]], *, begin: float = 0.2) -> float:
    """The largest error of the time left, in shares of the whole time, from `begin` of it on."""
    whole = outlooks[-1][0]
    errors = [
        abs(look.seconds_left - (whole - at)) / whole
        for at, look in outlooks
        if at >= begin * whole and look.seconds_left is not None
    ]
    assert len(errors) > 20
    return max(errors)


def run(rows: int, machines: dict[str, Machine], kinds: dict[str, Kind] = KINDS, **more: object):
    clock = Clock()
    forecast = Forecast(STAGES, {"policy": machines["policy"], **machines}, rows=rows, clock=clock)
    looks = [(clock.now, look) for look in simulate(forecast, machines, kinds, rows, clock, **more)]
    for at, look in looks[:: max(1, len(looks) // 12)]:
        print(f"{at:7.1f} left {look.seconds_left} true {looks[-1][0] - at:.1f} share {look.share}")
    return looks


if __name__ == "__main__":
    for rows, places in ((56, 64), (300, 64), (1000, 64), (24, 16)):
        print(rows, places)
        looks = run(rows, {"policy": Machine(speed=320, places=places, prefill=1 / 2000)})
        print("worst", worst(looks))


# Trainings --------------------------------------------------------------------------------------


def test_the_time_left_of_a_training_is_by_its_newer_steps() -> None:
    """The first step is slow: 10 s here, and 2 s for each after it."""
    clock = Clock()
    steps = StepTimes(clock)
    steps.begin(0)
    assert (steps.seconds(), steps.left(10)) == (None, None)
    assert steps.view(10).facts == "step 0/10"
    for step, at in enumerate((10, 12, 14, 16), start=1):
        clock.now = float(at)
        steps.end(step)
    assert steps.seconds() == 2.0  # (16 - 12) / 2
    clock.now = 17.0
    assert steps.left(10) == 11.0  # 6 steps of 2 s, less the one that passed
    assert steps.view(10).facts == "step 4/10, 2.0 s/step, about 10 s left"
    steps.end(5, saves=True)  # 17 s: a step of 1 s
    clock.now = 47.0
    assert steps.view(10).facts == "step 5/10, saving a checkpoint"
    steps.saved()
    assert steps.seconds() == pytest.approx(5 / 3)  # (17 - 12) / 3: the 30 s are no step's
    assert steps.left(10) == pytest.approx(25 / 3)
    steps.begin(4)  # a training that goes on
    assert steps.view(10).facts == "step 4/10"
