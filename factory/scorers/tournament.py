"""Who meets whom in the next round of a Swiss tournament: winners meet winners.

In: everyone's points, the rounds played and a seed. Out: the round's pairs. Always:
- nobody plays twice in a round, and no two meet twice in a tournament;
- with an odd number one player has a bye, nobody two before all had one (the bye is a player whom
  everyone can meet once);
- for the first ceil(players / 2) rounds, of which log2(players) need no more, nobody else sits out:
  a pairing without rematch exists (Dirac's theorem), and the repairs below find it. In later rounds
  those who have met all that are free sit out; a round of no pairs ends the tournament.

From the top down each meets the nearest in points who is free, ties broken by the seed (Monrad's
rule; the sum of all differences is not made the least). No colors to balance: judges see every
pair in both orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from factory.core.seeds import derive_seed
from factory.scorers.labels import DECIMALS

Pair = tuple[int, int]
_BYE = -1


def swiss_rounds(players: int) -> int:
    """ceil(log2 players): as many as leave one who has won every time. None for less than two."""
    return max(players - 1, 0).bit_length()


def next_round(
    points: Mapping[int, float], rounds: Sequence[Sequence[Pair]], seed: int
) -> list[Pair]:
    """Pairs of the players, who are the keys of `points` and not negative; the lower number first.

    The order of `points` does not matter, nor do differences of float noise.
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
    """Make two pairs of one and of two players who are left, who have met; the lowest pair first.

    Two who are left can meet n players or more between them, n being all; the pairs are fewer than
    n / 2, so with one of them they can make three matches, of which two are apart.
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
