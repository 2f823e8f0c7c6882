"""Forecast of a run: calls and tokens done and left, and the time left. Arithmetic only; prints nothing.

    forecast = Forecast(stages, engines, rows=...)
    counts = forecast.begin()        a row begins; the run adds a `StageCount` for each stage it enters
    forecast.end(counts)             the row has ended
    forecast.look()                  an `Outlook`; computed at most once a second

Calls per row at a stage are estimated from the rows that have passed it, with the stage's own estimate
(`Stage.expected_calls`) as a prior. Tokens per call are estimated likewise, with max_tokens as the
prior. Time is computed from tokens: the seconds per prompt token and per output token of each engine
are fitted to the work so far. Calls answered from the ledger have a rate of their own.

`begin` and `end` are cheap, since they are in the run's loop. `look` may be called by another thread.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from factory.engines.base import Engine, EngineStats
from factory.pipeline.pace import Pace
from factory.stages.base import Expected, Question, Stage
from factory.stages.models import StageCount

_PERIOD = 1.0  # seconds between two measurements
_ROWS_DECLARED = 1.0  # weight, in rows, of a stage's own estimate of its calls
_CALLS_DECLARED = 4.0  # weight, in calls, of the prior on tokens per call
_USED = 0.5  # prior share of max_tokens that an answer uses
_PROMPT_TOKENS = 100.0  # prior prompt tokens per call
_CALLS_BEFORE_TIME = 5  # calls to be made before a time left is shown
_NOTHING = 0.5  # calls left that count as none
_RECENT = 256  # newest rows, which show whether the rows to come are in the ledger


class StageOutlook(NamedTuple):
    label: str
    calls: int
    """Calls that have ended: made, or answered from the ledger."""
    expected: float | None
    """All calls, ended ones included. None: the number of rows is unknown."""
    is_certain: bool
    """True if each row so far made as many calls as the stage estimated."""
    tokens: int
    """Output tokens so far."""
    expected_tokens: float | None


class Outlook(NamedTuple):
    """The state of a run at one moment."""

    stages: list[StageOutlook]
    """The stages that make calls."""
    rows: int
    """Rows that have ended in this run, quarantined ones included."""
    failed: int
    """Of `rows`, those quarantined."""
    made: int
    remembered: int
    """`made`: calls made. `remembered`: calls answered from the ledger."""
    to_make: float | None
    """Calls that are still to be made. None: the number of rows is unknown."""
    share: float | None
    """Share of the work that is done, measured in time, in [0, 1]. None: unknown."""
    seconds_left: float | None
    """None: unknown yet."""
    tokens_a_second: float
    cached: float
    """Share of prompt tokens from prefix caches, in [0, 1]."""
    doing: tuple[str, ...]
    """Work of engines that cannot answer yet: `loading smollm2-135m-instruct`."""


class _Rows(NamedTuple):
    """Calls and tokens of the rows that have begun, by stage."""

    passed: dict[str, StageCount]
    """Totals of the rows that have passed the stage."""
    number: dict[str, int]
    """Number of the rows that have passed the stage."""
    here: dict[str, StageCount]
    """Totals of the rows that are at the stage."""
    asked: dict[str, list[int]]
    """Ended calls of each row that is at the stage."""
    before: dict[str, int]
    """Number of rows that have begun and not yet reached the stage."""


class _Declared(NamedTuple):
    """A stage's own estimates, used as priors."""

    calls: float
    """Calls per row."""
    prompt_tokens: float
    """Tokens of the stage's own text in a call, at four characters per token."""
    most_tokens: float
    """Most output tokens that a call may have."""
    is_text: bool
    """True if it writes text: the share of `most_tokens` that it uses is then estimated."""
    engines: tuple[int, ...]
    """Positions of the engines that its calls go to, in equal shares."""


class Forecast:
    """Forecast of a run. `rows`: their number; None: unknown. `expected`: a sample before the first stage."""

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
        self._passed = {label: StageCount() for label in self._declared}
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
        """Begin a row. The caller adds a count to the returned dict for each stage that it enters."""
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
            / (_ROWS_DECLARED + rows.number[label])
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
        so_far = StageCount()
        for each in (*rows.passed.values(), *rows.here.values()):
            so_far.add(each)
        made, remembered = so_far.made, so_far.remembered
        doing = tuple(dict.fromkeys(s.doing for s in stats if s.doing))
        self._pace.measure(now, made, remembered, done, is_loading=bool(doing))
        seconds_left = share_done = None
        if self._rows is not None and (
            made >= max(_CALLS_BEFORE_TIME, running) or sum(to_make.values()) < _NOTHING
        ):
            seconds_left = self._pace.seconds(to_do) + self._pace.replay_seconds(to_replay)
            spent = self._pace.seconds(done) + self._pace.replaying
            share_done = spent / (spent + seconds_left) if spent else 0.0
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
        """Calls and tokens of all rows so far, by the stage they have reached."""
        labels = self._declared
        found = _Rows(
            passed={label: copy.copy(each) for label, each in self._passed.items()},
            number=dict.fromkeys(labels, self._rows_ended),
            here={label: StageCount() for label in labels},
            asked={label: [] for label in labels},
            before=dict.fromkeys(labels, 0),
        )
        for counts in list(self._open.values()):
            entered = list(counts.items())
            for label, count in entered[:-1]:
                if label in labels:
                    found.passed[label].add(count)
                    found.number[label] += 1
            at = -1
            if entered:
                label, count = entered[-1]
                at = self._order[label]
                if label in labels:
                    found.here[label].add(count)
                    found.asked[label].append(count.calls)
            for label in labels:
                found.before[label] += self._order[label] > at
        return found

    def _work(
        self, calls: Mapping[str, float], tokens: Mapping[str, tuple[float, float]]
    ) -> list[float]:
        """Tokens of this number of calls, in the kinds of `pace`."""
        work = [0.0] * (2 * len(self._engines))
        for label, declared in self._declared.items():
            for engine in declared.engines:
                for kind, each in enumerate(tokens[label]):
                    work[2 * engine + kind] += calls[label] * each / len(declared.engines)
        return work

    def _running(
        self, stats: Sequence[EngineStats], waiting: Mapping[str, float]
    ) -> Iterator[float]:
        """For each engine, the share of the calls waited for that it is working on, in [0, 1]."""
        calls = [0.0] * len(stats)
        for label, declared in self._declared.items():
            for engine in declared.engines:
                calls[engine] += waiting[label] / len(declared.engines)
        for each, count in zip(stats, calls, strict=True):
            yield min(1.0, each.running / count) if count else 0.0

    def _drain(self) -> None:
        while self._ended:
            counts, failed = self._ended.popleft()
            self._rows_ended += 1
            self._failed += failed
            for label, each in self._passed.items():
                if (count := counts.get(label)) is not None:
                    each.add(count)

    def _stage(self, label: str, rows: _Rows, left: float, tokens_a_call: float) -> StageOutlook:
        passed, here = rows.passed[label], rows.here[label]
        calls = passed.calls + here.calls
        output = passed.output_tokens + here.output_tokens
        is_known = self._rows is not None
        return StageOutlook(
            label=label,
            calls=calls,
            expected=calls + left if is_known else None,
            is_certain=passed.calls == self._declared[label].calls * rows.number[label],
            tokens=output,
            expected_tokens=output + left * tokens_a_call if is_known else None,
        )

    def _made_share(self, calls: Mapping[str, float]) -> dict[str, float]:
        """By stage, the share in [0, 1] of the newest rows' calls that were not answered from the ledger."""
        made, every = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 0.0)
        for counts in list(self._recent):
            is_open = id(counts) in self._open
            entered = list(counts)
            last = entered[-1] if entered else None
            for label, of_a_row in calls.items():
                count = counts.get(label)
                done_here = count.made if count else 0
                known = count.calls if count else 0
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
    """The priors of each stage that makes calls, in order."""
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
    passed: Mapping[str, StageCount],
    here: Mapping[str, StageCount],
    running: int,
) -> dict[str, tuple[float, float]]:
    """Stage -> (prompt tokens that are not cached, output tokens) per call. `running`: calls in flight."""
    # Rows still at a stage may have calls whose tokens are not counted yet, so they are used only
    # where no row has passed it.
    seen = {label: each if each.calls else here[label] for label, each in passed.items()}
    every = sum(each.calls for each in seen.values())
    # The first calls to end are the short ones: while most still run, the prior weighs more.
    weight = _CALLS_DECLARED + running * running / (running + every) if running else _CALLS_DECLARED
    texts = [label for label in seen if declared[label].is_text]
    most = sum(declared[label].most_tokens * seen[label].calls for label in texts)
    mean_most = most / sum(seen[label].calls for label in texts) if most else 1.0
    used = sum(seen[label].output_tokens for label in texts) + weight * _USED * mean_most
    used /= most + weight * mean_most
    computed = sum(each.prompt_tokens - each.cached_tokens for each in seen.values())
    prompt = computed / every if computed else _PROMPT_TOKENS
    found = {}
    for label, each in seen.items():
        output = declared[label].most_tokens * (used if declared[label].is_text else 1.0)
        at_least = max(prompt, declared[label].prompt_tokens)
        own = each.prompt_tokens - each.cached_tokens
        found[label] = (
            (_CALLS_DECLARED * at_least + own) / (_CALLS_DECLARED + each.calls),
            (weight * output + each.output_tokens) / (weight + each.calls),
        )
    return found


def _since(first: EngineStats, now: EngineStats) -> EngineStats:
    """The engine's counts since `first`."""
    counts = ("calls", "prompt_tokens", "cached_tokens", "output_tokens")
    new = {name: getattr(now, name) - getattr(first, name) for name in counts}
    return msgspec.structs.replace(now, **new)
