"""How much of a run is done, what is left of it, and how long that takes. Arithmetic; shows nothing.

    forecast = Forecast(stages, engines, rows=...)
    counts = forecast.begin()        a row begins: the run puts a `StageCount` in for each stage it enters
    forecast.end(counts)             it has ended
    forecast.look()                  an `Outlook`, once a second at most

Calls a row makes at a stage are learned from the rows that have passed it; as long as those are few,
what the stage says of itself counts too (`Stage.expected_calls`). So are tokens a call, by the stage's
max_tokens before there is any. Time comes from tokens: the seconds that a prompt token and an output
token of each engine take are fitted to what was done so far, while calls were being made. Calls
answered from the ledger cost what those before them cost, and are in no other rate.

`begin` and `end` are cheap, since they are in the run's loop; `look` may be called by another thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from factory.engines.base import Engine, EngineStats
from factory.pipeline.calls import StageCount
from factory.pipeline.pace import Pace
from factory.stages.base import Expected, Question, Stage

_PERIOD = 1.0  # seconds between two looks that measure
_ROWS_DECLARED = 1.0  # rows that a stage's own word on its calls counts for
_CALLS_DECLARED = 4.0  # calls that max_tokens counts for
_USED = 0.5  # of max_tokens, before anything is known
_PROMPT_TOKENS = 100.0  # of a call, before anything is known
_CALLS_BEFORE_TIME = 5  # made, before there is a time left
_NOTHING = 0.5  # of a call
_RECENT = 256  # rows that tell whether those to come are in the ledger


class StageOutlook(NamedTuple):
    label: str
    calls: int
    """Ended: made, or answered from the ledger."""
    expected: float | None
    """All calls, those included. None: nobody knows how many rows there are."""
    is_certain: bool
    """Each row has asked as often as the stage said before."""
    tokens: int
    """Of output."""
    expected_tokens: float | None


class Outlook(NamedTuple):
    """A run at one moment."""

    stages: list[StageOutlook]
    """Those that make calls."""
    rows: int
    """Ended in this run, quarantined ones included."""
    failed: int
    """Of those, quarantined."""
    made: int
    remembered: int
    """Calls made, and answered from the ledger."""
    to_make: float | None
    """Calls that are still to be made. None: nobody knows how many rows there are."""
    share: float | None
    """Of the work that is done, by its time, in [0, 1]. None: unknown."""
    seconds_left: float | None
    """None: unknown yet."""
    tokens_a_second: float
    cached: float
    """Share of prompt tokens from prefix caches, in [0, 1]."""
    doing: tuple[str, ...]
    """What engines do before they can answer, as `loading smollm2-135m-instruct`."""


class _Sum:
    """What the rows that have passed a stage asked there."""

    __slots__ = ("cached", "made", "output", "prompt", "remembered", "rows")

    def __init__(self) -> None:
        self.rows = self.made = self.remembered = self.prompt = self.cached = self.output = 0

    def add(self, count: StageCount) -> None:
        self.made += count.made
        self.remembered += count.remembered
        self.prompt += count.prompt_tokens
        self.cached += count.cached_tokens
        self.output += count.output_tokens

    def copy(self) -> _Sum:
        other = _Sum()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    @property
    def calls(self) -> int:
        return self.made + self.remembered


class _Rows(NamedTuple):
    """What the rows that have begun asked, by stage."""

    passed: dict[str, _Sum]
    """Of those that have passed it."""
    here: dict[str, _Sum]
    """Of those that are at it,"""
    asked: dict[str, list[int]]
    """and the calls of each that have ended."""
    before: dict[str, int]
    """Rows that are yet to reach it."""


class _Declared(NamedTuple):
    """What a stage is before anything is known of it."""

    calls: float
    """A row's."""
    prompt_tokens: float
    """Of what the stage itself says in a call, at four characters a token."""
    most_tokens: float
    """Of output, that a call may have."""
    is_text: bool
    """It writes: how much of `most_tokens` it uses is to be learned."""
    engines: tuple[int, ...]
    """That its calls go to, evenly."""


class Forecast:
    """`rows`: those this run is to go through; None: unknown. `expected`: a sample before the first
    stage."""

    def __init__(
        self,
        stages: Sequence[tuple[str, Stage]],
        engines: Mapping[str, Engine],
        *,
        rows: int | None,
        expected: Expected = Expected(),  # noqa: B008
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._engines = list(dict.fromkeys(engines.values()))
        self._declared = _declare(stages, engines, self._engines, expected)
        self._passed = {label: _Sum() for label in self._declared}
        self._order = {label: i for i, (label, _) in enumerate(stages)}
        self._open: dict[int, dict[str, StageCount]] = {}
        self._ended: deque[tuple[dict[str, StageCount], bool]] = deque()
        self._recent: deque[dict[str, StageCount]] = deque(maxlen=_RECENT)
        self._begun = self._rows_ended = self._failed = 0
        self._at_first = [msgspec.structs.replace(engine.stats()) for engine in self._engines]
        self._looked = clock()
        self._pace = Pace(len(self._engines), self._looked)
        self._outlook: Outlook | None = None

    def begin(self) -> dict[str, StageCount]:
        """Of a row: where its counts go, by stage, in the order in which it enters them."""
        counts: dict[str, StageCount] = {}
        self._begun += 1
        self._open[id(counts)] = counts
        self._recent.append(counts)
        return counts

    def end(self, counts: dict[str, StageCount], *, failed: bool = False) -> None:
        del self._open[id(counts)]
        self._ended.append((counts, failed))

    def look(self) -> Outlook:
        now = self._clock()
        if self._outlook is None or now - self._looked >= _PERIOD:
            self._outlook = self._look(now)
        return self._outlook

    def _look(self, now: float) -> Outlook:
        self._looked = now
        self._drain()
        rows = self._where()
        not_begun = max(0, self._rows - self._begun) if self._rows is not None else 0
        calls = {
            label: (_ROWS_DECLARED * self._declared[label].calls + each.calls)
            / (_ROWS_DECLARED + each.rows)
            for label, each in rows.passed.items()
        }
        waiting = {
            label: sum(max(0.0, calls[label] - done) for done in rows.asked[label])
            for label in calls
        }
        made_share = self._made_share(calls) if not_begun else {}
        to_make, to_replay, left = {}, 0.0, {}
        for label, of_a_row in calls.items():
            share = made_share.get(label, 1.0)
            begun, later = waiting[label] + rows.before[label] * of_a_row, not_begun * of_a_row
            to_make[label] = begun + later * share
            to_replay += later * (1 - share)
            left[label] = begun + later
        stats = [
            _since(first, engine.stats())
            for first, engine in zip(self._at_first, self._engines, strict=True)
        ]
        running = sum(s.running for s in stats)
        tokens = _tokens_a_call(self._declared, rows.passed, rows.here, running)
        done = [
            float(n) for s in stats for n in (s.prompt_tokens - s.cached_tokens, s.output_tokens)
        ]
        to_do = self._work(to_make, tokens)
        for engine, part in enumerate(self._running(stats, waiting)):
            begun_work = self._work(waiting, tokens)
            for place, share in ((2 * engine, 1.0), (2 * engine + 1, 0.5)):
                done[place] += part * share * begun_work[place]
                to_do[place] -= part * share * begun_work[place]
        made = sum(s.made for s in (*rows.passed.values(), *rows.here.values()))
        remembered = sum(s.remembered for s in (*rows.passed.values(), *rows.here.values()))
        doing = tuple(dict.fromkeys(s.doing for s in stats if s.doing))
        self._pace.measure(now, made, remembered, done, is_loading=bool(doing))
        seconds_left = share_done = None
        if self._rows is not None and (
            made >= max(_CALLS_BEFORE_TIME, running) or sum(to_make.values()) < _NOTHING
        ):
            seconds_left = self._pace.seconds(to_do) + self._pace.replay_seconds(to_replay)
            so_far = self._pace.seconds(done) + self._pace.spent_replaying
            share_done = so_far / (so_far + seconds_left) if so_far else 0.0
        prompt = sum(s.prompt_tokens for s in stats)
        return Outlook(
            stages=[
                self._stage(label, rows, left[label], tokens[label][1]) for label in self._declared
            ],
            rows=self._rows_ended,
            failed=self._failed,
            made=made,
            remembered=remembered,
            to_make=sum(to_make.values()) if self._rows is not None else None,
            share=share_done,
            seconds_left=seconds_left,
            tokens_a_second=self._pace.rate(now, sum(s.output_tokens for s in stats)),
            cached=sum(s.cached_tokens for s in stats) / prompt if prompt else 0.0,
            doing=doing,
        )

    def _where(self) -> _Rows:
        """What rows have asked, by where they are."""
        labels = self._declared
        passed = {label: each.copy() for label, each in self._passed.items()}
        found = _Rows(
            passed,
            here={label: _Sum() for label in labels},
            asked={label: [] for label in labels},
            before=dict.fromkeys(labels, 0),
        )
        for counts in list(self._open.values()):
            entered = list(counts.items())
            for label, count in entered[:-1]:
                if label in labels:
                    passed[label].add(count)
                    passed[label].rows += 1
            at = -1
            if entered:
                label, count = entered[-1]
                at = self._order[label]
                if label in labels:
                    found.here[label].add(count)
                    found.asked[label].append(count.made + count.remembered)
            for label in labels:
                found.before[label] += self._order[label] > at
        return found

    def _work(
        self, calls: Mapping[str, float], tokens: Mapping[str, tuple[float, float]]
    ) -> list[float]:
        """Tokens of so many calls, in the kinds of `pace`."""
        work = [0.0] * (2 * len(self._engines))
        for label, declared in self._declared.items():
            for engine in declared.engines:
                for kind, each in enumerate(tokens[label]):
                    work[2 * engine + kind] += calls[label] * each / len(declared.engines)
        return work

    def _running(
        self, stats: Sequence[EngineStats], waiting: Mapping[str, float]
    ) -> Iterator[float]:
        """Of the calls that rows wait for, the share that each engine is working on."""
        calls = [0.0] * len(stats)
        for label, declared in self._declared.items():
            for engine in declared.engines:
                calls[engine] += waiting[label] / len(declared.engines)
        for each, count in zip(stats, calls, strict=True):
            yield min(1.0, each.running / count) if count else 0.0

    def _drain(self) -> None:
        """Add up the rows that have ended."""
        while self._ended:
            counts, failed = self._ended.popleft()
            self._rows_ended += 1
            self._failed += failed
            for label, each in self._passed.items():
                each.rows += 1
                if (count := counts.get(label)) is not None:
                    each.add(count)

    def _stage(self, label: str, rows: _Rows, left: float, tokens_a_call: float) -> StageOutlook:
        passed, here = rows.passed[label], rows.here[label]
        calls, output = passed.calls + here.calls, passed.output + here.output
        is_known = self._rows is not None
        return StageOutlook(
            label=label,
            calls=calls,
            expected=calls + left if is_known else None,
            is_certain=passed.calls == self._declared[label].calls * passed.rows,
            tokens=output,
            expected_tokens=output + left * tokens_a_call if is_known else None,
        )

    def _made_share(self, calls: Mapping[str, float]) -> dict[str, float]:
        """Of the calls at each stage, the share that the newest rows make, or wait for: what is in the
        ledger is answered at once."""
        made, every = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 0.0)
        for counts in list(self._recent):
            is_open = id(counts) in self._open
            entered = list(counts)
            last = entered[-1] if entered else None
            for label, of_a_row in calls.items():
                count = counts.get(label)
                done_here = count.made if count else 0
                known = count.made + count.remembered if count else 0
                missing = 0.0
                if is_open and (count is None or label == last):
                    missing = max(0.0, of_a_row - known)
                made[label] += done_here + missing
                every[label] += known + missing
        return {label: made[label] / every[label] if every[label] else 1.0 for label in calls}


def _declare(
    stages: Sequence[tuple[str, Stage]],
    engines: Mapping[str, Engine],
    places: list[Engine],
    expected: Expected,
) -> dict[str, _Declared]:
    """Of each stage that makes calls, in order."""
    found: dict[str, _Declared] = {}
    for label, stage in stages:
        calls = stage.expected_calls(expected)
        expected = stage.expected_after(expected)
        models = [model for model in stage.models_used().values() if model in engines]
        if not models:
            continue
        questions = [question for _, question in stage.examples()]
        writes = [q for q in questions if not q.labels and q.scoring is None]
        most = sum(q.sampling.max_tokens for q in writes) + sum(bool(q.labels) for q in questions)
        found[label] = _Declared(
            calls=calls,
            prompt_tokens=sum(map(_characters, questions)) / 4 / max(1, len(questions)),
            most_tokens=most / max(1, len(questions)),
            is_text=bool(writes),
            engines=tuple(dict.fromkeys(places.index(engines[model]) for model in models)),
        )
    return found


def _characters(question: Question) -> int:
    return sum(len(message["content"]) for message in question.messages) + len(question.prefix)


def _tokens_a_call(
    declared: Mapping[str, _Declared],
    passed: Mapping[str, _Sum],
    here: Mapping[str, _Sum],
    running: int,
) -> dict[str, tuple[float, float]]:
    """(prompt tokens that are not cached, output tokens) by stage. `running`: calls under way."""
    # Rows at a stage may have calls whose tokens are not counted yet, so they speak where no other can.
    seen = {label: each if each.calls else here[label] for label, each in passed.items()}
    every = sum(each.calls for each in seen.values())
    # The first calls to end are the short ones: as long as most are still running, less is believed.
    weight = _CALLS_DECLARED + running * running / (running + every) if running else _CALLS_DECLARED
    texts = [label for label in seen if declared[label].is_text]
    most = sum(declared[label].most_tokens * seen[label].calls for label in texts)
    mean_most = most / sum(seen[label].calls for label in texts) if most else 1.0
    used = sum(seen[label].output for label in texts) + weight * _USED * mean_most
    used /= most + weight * mean_most
    computed = sum(each.prompt - each.cached for each in seen.values())
    prompt = computed / every if computed else _PROMPT_TOKENS
    found = {}
    for label, each in seen.items():
        output = declared[label].most_tokens * (used if declared[label].is_text else 1.0)
        at_least = max(prompt, declared[label].prompt_tokens)
        calls = weight + each.calls
        found[label] = (
            (_CALLS_DECLARED * at_least + each.prompt - each.cached)
            / (_CALLS_DECLARED + each.calls),
            (weight * output + each.output) / calls,
        )
    return found


def _since(first: EngineStats, now: EngineStats) -> EngineStats:
    """Of an engine that may have worked before."""
    return msgspec.structs.replace(
        now,
        calls=now.calls - first.calls,
        prompt_tokens=now.prompt_tokens - first.prompt_tokens,
        cached_tokens=now.cached_tokens - first.cached_tokens,
        output_tokens=now.output_tokens - first.output_tokens,
    )
