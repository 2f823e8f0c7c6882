"""Safe display of texts of models, servers and files on a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls except tab and newline, DEL, and the marks that change the direction of writing.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters escaped, as `\\x1b`: they could recolor or rename a terminal."""
    return _CONTROLS.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
