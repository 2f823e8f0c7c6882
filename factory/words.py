"""Words of a text, in any script, and one spelling of it."""

from __future__ import annotations

import unicodedata


def spelling(text: str) -> str:
    """The text in one spelling: without case, with single spaces, and each character written the one
    way Unicode prefers (NFC; full-width and ligatures as plain letters). `x²` stays `x²`."""
    if not text.isascii():
        text = "".join(map(_plain, unicodedata.normalize("NFC", text)))
        text = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", " ".join(text.casefold().split()))


def _plain(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    is_form = tag in ("<wide>", "<narrow>", "<noBreak>", "<compat>")
    return unicodedata.normalize("NFKC", character) if is_form else character
