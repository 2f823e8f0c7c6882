"""Numbers of files and servers as floats."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any


def finite(value: Any) -> float | None:
    """The number as a float. None: it is no number, not finite, or beyond a float; true and false are
    no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None
