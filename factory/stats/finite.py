"""Conversion of numbers from files and servers to finite floats."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any


def finite(value: Any) -> float | None:
    """The number as a float. None: no number (as true and false), not finite, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None
