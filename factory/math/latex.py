"""One spelling for what LaTeX, Unicode and keyboards write in several ways: `½`, `\\frac12` and
`\\dfrac{1}{2}` are `\\frac{1}{2}`, and a minus is a minus."""

from __future__ import annotations

import re
import unicodedata

TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10(?:\^|\*\*))|(?<=[0-9])\s+[xX]\s+(?=[0-9])")
"""An x that stands for a multiplication: 1.5 x 10^3, 3 x 4."""
_SYMBOLS = str.maketrans("\u2212\ufe63\uff0d\u2044\u2215×✕·⋅∙∗⩽⩾", "---//******≤≥") | str.maketrans(
    {
        "√": "\\sqrt ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "∪": "\\cup ",
        "∅": "\\emptyset ",
        "∈": "\\in ",
        "°": "^\\circ ",
    }
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUPER = re.compile(f"[{''.join(_RAISED)}]+")
_VULGAR = re.compile("(?P<whole>[0-9] ?)?(?P<sign>[¼-¾⅐-⅞])")

_MACROS = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])\.?"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))"), ","),
    # Not the second of two backslashes, which end a row of a matrix.
    (re.compile(r"(?<!\\)\\(?:[,;:! ]|quad|qquad|hspace\{[^{}]*\})(?![a-zA-Z])|~"), " "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])"), " "),
    (re.compile(r"\\\$"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*(?!\*)"), " * "),
    (re.compile(r"\*\s+\*|\*\*"), "^"),
    (re.compile(r"\\div(?![a-zA-Z])"), " ÷ "),
    (re.compile(r"\\leq?(?:slant)?(?![a-zA-Z])|<="), " ≤ "),
    (re.compile(r"\\geq?(?:slant)?(?![a-zA-Z])|>="), " ≥ "),
    (re.compile(r"\\langle(?![a-zA-Z])"), "("),
    (re.compile(r"\\rangle(?![a-zA-Z])"), ")"),
    (re.compile(r"\\(?:lt)(?![a-zA-Z])"), " < "),
    (re.compile(r"\\(?:gt)(?![a-zA-Z])"), " > "),
    (re.compile(r"\\equiv(?![a-zA-Z])|=="), " = "),
    (re.compile(r"\\approx(?![a-zA-Z])"), " ≈ "),
    (re.compile(r"\\pm(?![a-zA-Z])|\+/-|\+-"), " ± "),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\[lr]vert(?![a-zA-Z])|\\mid(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:text|mbox|textrm)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}"), " , "),
    (re.compile(r",?\s+(?:and|or)\s+(?=[-+±\\(\[{$.0-9]|[a-zA-Z]\s*=)"), " , "),
    (re.compile(r"\\(?:frac|sqrt)(?=\s*[0-9a-zA-Z])"), None),
)
WORDS = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
)


def spelled(text: str) -> str:
    """The text with one spelling for what LaTeX, Unicode and keyboards write in several ways."""
    if not text.isascii():
        text = _VULGAR.sub(_written_out, text)
        text = _SUPER.sub(lambda found: f"^{{{''.join(_RAISED[c] for c in found[0])}}}", text)
        text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS)).translate(_SYMBOLS)
        text = re.sub(r"\\sqrt\s+([0-9.]+)", r"\\sqrt{\1}", text)
    text = TIMES.sub("*", re.sub(r"([0-9]) and ([0-9]+/[0-9]+)", r"\1 \2", text))
    for pattern, to in _MACROS:
        text = _braced(text) if to is None else pattern.sub(to, text)
    return text


def _written_out(found: re.Match[str]) -> str:
    r"""`½` is `\frac{1}{2}`, also after a whole number: 2½."""
    over, _, under = unicodedata.normalize("NFKC", found["sign"]).partition("\u2044")
    return f"{found['whole'] or ''}\\frac{{{over}}}{{{under}}}"


def _braced(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`, `\sqrt3` as `\sqrt{3}`: without braces TeX takes one sign."""
    text = re.sub(r"\\frac\s*([0-9a-zA-Z])(?=\s*[0-9a-zA-Z{\\])", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}", text)
    return re.sub(r"\\sqrt\s*([0-9a-zA-Z])(?!\w*\()", r"\\sqrt{\1}", text)
