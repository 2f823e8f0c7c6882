"""Pairing of the next round of a Swiss tournament, in which winners meet winners.

In: all players' points, the rounds played and a seed. Out: the round's pairs. Always:
- no player plays twice in a round, and no pair meets twice in a tournament;
- with an odd number, one player has a bye; none has a second bye before all have had one (the bye is
  treated as a player whom everyone can meet once);
- in the first ceil(players / 2) rounds (log2(players) rounds need no more) nobody else sits out: a
  pairing without rematch exists (Dirac's theorem), and the repairs below find it. In later rounds,
  players who have met all free players sit out. A round without pairs ends the tournament.

From the top down, each player meets the free player nearest in points; the seed breaks ties (Monrad's
rule; the sum of differences is not minimized). No colors are balanced: judges see both orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from factory.core.seeds import derive_seed
from factory.scorers.comparison import DECIMALS

Pair = tuple[int, int]
_BYE = -1


def swiss_rounds(players: int) -> int:
    """ceil(log2 players): after so many rounds at most one has won every time. 0 for fewer than two."""
    return max(players - 1, 0).bit_length()


def next_round(
    points: Mapping[int, float], rounds: Sequence[Sequence[Pair]], seed: int
) -> list[Pair]:
    """Pairs of players, the lower number first. Players are the keys of `points`, at least 0.

    The order of `points` and differences of float noise do not matter.
    """
    seats = sorted(points, key=lambda i: (-round(points[i], DECIMALS), derive_seed(seed, i), i))
    met = {frozenset(pair) for played in rounds for pair in played}
    if len(seats) % 2:
        seats.append(_BYE)
        for played in rounds:
            met |= {
                frozenset((i, _BYE)) for i in points.keys() - {i for pair in played for i in pair}
            }
    pairs: list[Pair] = []
    left: list[int] = []
    while seats:
        first = seats.pop(0)
        free = [other for other in seats if frozenset((first, other)) not in met]
        if free:
            seats.remove(free[0])
            pairs.append((first, free[0]))
        else:
            left.append(first)
    while _repair(pairs, left, met):
        pass
    return [(min(pair), max(pair)) for pair in pairs if _BYE not in pair]


def _repair(pairs: list[Pair], left: list[int], met: set[frozenset[int]]) -> bool:
    """Replace one pair and two left players, who have met, by two pairs. Tries the lowest pair first.

    The two left players together have at least n possible opponents, n being all players. There are
    fewer than n / 2 pairs, so with one of them three matches are possible, two of which are disjoint.
    """
    for u, v in combinations(left, 2):
        for i, (a, b) in reversed([*enumerate(pairs)]):
            for x, y in ((a, b), (b, a)):
                if frozenset((u, x)) not in met and frozenset((v, y)) not in met:
                    pairs[i : i + 1] = [(u, x), (v, y)]
                    left.remove(u)
                    left.remove(v)
                    return True
    return False
