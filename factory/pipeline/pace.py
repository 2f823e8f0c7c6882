"""Pace of a run: seconds per token of each engine, fitted to the work so far. Arithmetic only.

Work is counted in kinds. Kind 2i: prompt tokens that engine i computed (not from its cache). Kind
2i + 1: output tokens of engine i. Time in which engines were loading, or in which every call was
answered from the ledger, is excluded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_PROMPT_COST = 1 / 8  # prior cost of a prompt token, as a share of an output token's
_TO_PRIOR = 1.0  # weight of the prior in the fit
_ROUNDS = 50  # rounds of the fit
_RATE_SECONDS = 15.0  # window of the rate of tokens


class Pace:
    """Time spent so far, by kind of work. `began`: the clock's seconds at the beginning."""

    def __init__(self, engines: int, began: float) -> None:
        self._costs = Costs(2 * engines)
        self._last = began
        self._made = self._remembered = 0
        self._busy = 0.0  # seconds in which calls were being made
        self.replaying = 0.0  # seconds in which all were answered from the ledger
        self._replayed = 0
        self._outputs = deque([(began, 0)])

    def measure(
        self, now: float, made: int, remembered: int, work: Sequence[float], *, is_loading: bool
    ) -> None:
        """Add a measurement. Counts are since the beginning. `is_loading`: an engine cannot answer yet."""
        seconds, self._last = now - self._last, now
        newly_made, self._made = made - self._made, made
        newly_remembered, self._remembered = remembered - self._remembered, remembered
        if not newly_made and newly_remembered > 0:
            self.replaying += seconds
            self._replayed += newly_remembered
        elif newly_made > 0 or not is_loading:
            self._busy += seconds
            self._costs.learn(self._busy, seconds, work)

    def seconds(self, work: Sequence[float]) -> float:
        """Seconds that this work takes."""
        return self._costs.seconds(work)

    def replay_seconds(self, calls: float) -> float:
        """Seconds that this number of calls from the ledger takes."""
        return calls * self.replaying / self._replayed if self._replayed else 0.0

    def rate(self, now: float, output_tokens: int) -> float:
        """Output tokens per second over the last `_RATE_SECONDS`."""
        self._outputs.append((now, output_tokens))
        while len(self._outputs) > 2 and now - self._outputs[1][0] >= _RATE_SECONDS:
            self._outputs.popleft()
        began, first = self._outputs[0]
        return (output_tokens - first) / (now - began) if now > began else 0.0


class Costs:
    """Seconds per unit of each kind of work: non-negative least squares over the measurements so far.
    Where they do not tell kinds apart, a prompt token costs an eighth of an output token."""

    def __init__(self, kinds: int) -> None:
        self._kinds = range(kinds)
        self._products = [[0.0] * kinds for _ in self._kinds]
        self._with_time = [0.0] * kinds
        self._costs = [0.0] * kinds

    def learn(self, seconds: float, weight: float, work: Sequence[float]) -> None:
        """Add a measurement: all work in all seconds so far. It counts for `weight` seconds."""
        for i in self._kinds:
            self._with_time[i] += weight * seconds * work[i]
            for j in self._kinds:
                self._products[i][j] += weight * work[i] * work[j]
        prior = [_PROMPT_COST if i % 2 == 0 else 1.0 for i in self._kinds]
        if not (whole := _dot(prior, work)):
            return
        prior = [each * seconds / whole for each in prior]
        costs = prior.copy()
        for _ in range(_ROUNDS):
            for i in self._kinds:
                if not (square := self._products[i][i]):
                    continue
                others = _dot(self._products[i], costs) - square * costs[i]
                pulled = _TO_PRIOR * square
                costs[i] = max(
                    0.0, (self._with_time[i] - others + pulled * prior[i]) / (square + pulled)
                )
        if fitted := _dot(costs, work):
            self._costs = [each * seconds / fitted for each in costs]

    def seconds(self, work: Sequence[float]) -> float:
        return max(0.0, _dot(self._costs, work))


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
