"""Words of a text in any script, and its normalized spelling.

In scripts with spaces, a word is a text between white space: "don't", "state-of-the-art", "3.14" and
"안녕하세요" are one word each. In scripts without spaces, a word is

- each Chinese character (a typical word has two);
- each run of hiragana, and each run of katakana;
- three letters with their signs (grapheme clusters) of Thai, Lao, Khmer, Burmese and others that only
  a dictionary can divide: about the length of a word in these languages.

Scripts and clusters are Unicode's, by the package regex.
"""

from __future__ import annotations

import re
import unicodedata

import regex

_KANA_SIGNS = r"ー\uff70\uff9e\uff9f\u3099\u309a"
_CLUSTERED = (
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Tham}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Viet}\p{Tibetan}"
    r"\p{Javanese}\p{Balinese}"
)
_UNSPACED = rf"\p{{Han}}\p{{Hiragana}}\p{{Katakana}}\p{{Bopomofo}}\p{{Yi}}{_CLUSTERED}"
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u1cff\u2e80-\ua4cf\ua980-\uaadf\uf900-\ufaff\uff60-\uff9f"
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
"""The blocks of these scripts and their punctuation. Blocks are fast; script properties are slow."""
_MARKS = r"\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
"""Full-width punctuation."""
_PIECE = regex.compile(
    rf"(?P<clusters>[{_CLUSTERED}]+)|[\p{{Han}}\p{{Bopomofo}}\p{{Yi}}]"
    rf"|[\p{{Hiragana}}{_KANA_SIGNS}]*\p{{Hiragana}}[\p{{Hiragana}}{_KANA_SIGNS}]*"
    rf"|[\p{{Katakana}}{_KANA_SIGNS}]*\p{{Katakana}}[\p{{Katakana}}{_KANA_SIGNS}]*"
    rf"|[^{_UNSPACED}{_MARKS}]*[^\W{_UNSPACED}{_MARKS}][^{_UNSPACED}{_MARKS}]*"
)
_CLUSTERS_A_WORD = 3


def words(text: str) -> int:
    found = text.split()
    if text.isascii() or not UNSPACED.search(text):
        return len(found)
    return sum(_pieces(part) for part in found)


def _pieces(text: str) -> int:
    """Words of a text without white space."""
    if text.isascii() or not UNSPACED.search(text):
        return 1
    count = 0
    for piece in _PIECE.finditer(text):
        clusters = piece["clusters"]
        count += 1 if clusters is None else -(-_clusters(clusters) // _CLUSTERS_A_WORD)
    return count


def _clusters(text: str) -> int:
    return len(regex.findall(r"\X", text))


def spelling(text: str) -> str:
    """The text normalized for comparing words: `composed`, lower case, single spaces."""
    caseless = unicodedata.normalize("NFD", composed(text)).casefold()
    return unicodedata.normalize("NFC", " ".join(caseless.split()))


def composed(text: str) -> str:
    """The text in NFC, with full-width letters and ligatures as plain ones. Unlike NFKC, it keeps `x²`."""
    text = unicodedata.normalize("NFC", text)
    if unicodedata.is_normalized("NFKC", text):
        return text
    return unicodedata.normalize("NFC", "".join(map(_plain, text)))


def _plain(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    is_form = tag in ("<wide>", "<narrow>", "<noBreak>", "<compat>")
    return unicodedata.normalize("NFKC", character) if is_form else character
