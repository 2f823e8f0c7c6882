"""Numbers of files and servers as floats."""

from __future__ import annotations

from decimal import Decimal

import pytest

from factory.evaluation.evaluate import number
from factory.stats.finite import finite


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (Decimal("0.30000000000000004441"), 0.30000000000000004),
        (10**400, None),
        (Decimal("1e999"), None),
        (Decimal("NaN"), None),
        (float("inf"), None),
        (float("nan"), None),
        (True, None),
        ("1", None),
        (None, None),
    ],
)
def test_what_is_a_finite_number(value: object, expected: float | None) -> None:
    assert finite(value) == expected


def test_a_cell_may_be_a_number() -> None:
    assert [number(x) for x in ("1e2", " 3 ", "x", "nan", 2)] == [100.0, 3.0, None, None, 2.0]
