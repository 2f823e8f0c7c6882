"""The part of a run that is being filled, and its commit."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec

from factory.core.errors import NothingMade, TooManyFailures
from factory.core.lock import Held
from factory.core.records import Failure, Sample
from factory.pipeline import traces as shards
from factory.pipeline.calls import Calls
from factory.pipeline.manifest import Manifest
from factory.pipeline.outcomes import Outcome, reason_of
from factory.stages.models import StageCount

_FAILURES_BEFORE_STOPPING = 20  # samples that must have ended before a rate means anything
_REASONS_KEPT = 50


class Part:
    """The part being filled. Closing it commits the calls it names, then writes the trace, then the
    quarantine, then the manifest, which makes both count."""

    def __init__(self, out: Path, manifest: Manifest, calls: Calls, held: Held) -> None:
        self._out = out
        self._manifest = manifest
        self._calls = calls
        self._held = held
        self._quarantine = out / "quarantine.jsonl"
        self._begin()
        with self._quarantine.open("ab") as file:
            file.truncate(manifest.quarantine_bytes)  # remove lines of an unfinished part

    def _begin(self) -> None:
        self._samples: list[Sample] = []
        self._failures: list[Failure] = []
        self._failed = 0
        self._counts: dict[str, StageCount] = {}

    def __len__(self) -> int:
        return len(self._samples) + len(self._failures)

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome.result, Failure):
            self._failures.append(outcome.result)
            self._failed += outcome.result.stage != "source"
        else:
            self._samples.append(outcome.result)
        for stage, count in outcome.counts.items():
            self._counts.setdefault(stage, StageCount()).add(count)

    def refuse_failing(self, max_failure_rate: float) -> None:
        """Raise `TooManyFailures` if too many samples failed, rows that are not prompts apart."""
        failed = self._manifest.failed + self._failed
        ended = self._manifest.rows + len(self)
        if ended >= _FAILURES_BEFORE_STOPPING and failed > max_failure_rate * ended:
            raise TooManyFailures(
                f"{failed} of {ended} samples failed, more than max_failure_rate "
                f"({max_failure_rate:g}) allows; the most frequent reasons:\n"
                f"{_commonest(self._reasons())}\n"
                "fix the cause and run again (finished calls are remembered), or raise "
                "max_failure_rate"
            )

    def _reasons(self) -> Counter[str]:
        return Counter(self._manifest.reasons) + Counter(map(reason_of, self._failures))

    def close(self) -> None:
        if not len(self):
            return
        m = self._manifest
        self._calls.commit()
        self._held.check()
        m.trace_parts.append(shards.write_part(self._out, m.parts, self._samples))
        with self._quarantine.open("ab") as file:
            for failure in self._failures:
                file.write(msgspec.json.encode(failure) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            m.quarantine_bytes = file.tell()
        m.parts += 1
        m.rows += len(self)
        m.samples += len(self._samples)
        m.quarantined += len(self._failures)
        m.failed += self._failed
        m.retriable += sum(not f.is_permanent for f in self._failures)
        m.reasons = dict(self._reasons().most_common(_REASONS_KEPT))
        for stage, count in self._counts.items():
            m.stages.setdefault(stage, StageCount()).add(count)
        m.save(self._out)
        self._begin()


def refuse_nothing(manifest: Manifest) -> None:
    """Raise `NothingMade` if there is no sample."""
    if manifest.samples:
        return
    if not manifest.rows:
        raise NothingMade("the source has no rows, so no sample was made; check source.path")
    raise NothingMade(
        f"no sample was made: all {manifest.quarantined} rows failed; the most frequent reasons:\n"
        f"{_commonest(Counter(manifest.reasons))}\n"
        "fix the cause and run again"
    )


def _commonest(reasons: Counter[str]) -> str:
    return "\n".join(f"  {n} x {reason}" for reason, n in reasons.most_common(3))
