"""Numbers with a unit, a currency, a percent sign or a size word, and the number alone."""

from __future__ import annotations

import re

from factory.math.formula import MAX_CHARS, parse
from factory.math.tokens import DIGITS, EXPONENT, UnreadError

CURRENCY = "$€£¥₹₩₽฿"
UNITS = frozenset(
    """
    foot feet ft yard yards yd inch inches in mile miles mi hour hours hr hrs h minute minutes min
    mins second seconds sec secs s day days week weeks month months year years dollar dollars
    cents cent pound pounds lb lbs ounce ounces oz meter meters metre metres m km cm mm kilometers
    centimeters kg g mg grams gram kilograms liter liters litre l ml gallon gallons degrees degree
    dozen o'clock am pm
    """.split()  # noqa: SIM905
)
SHORT_UNITS = frozenset(
    """
    mm cm dm km m mg g kg t ml cl l L s min h hr ft in yd mi lb lbs oz Hz kHz W kW V A N J K Pa
    mol th st nd rd °C °F C F am pm mph kph dL dl mL GB MB KB kB TB kPa kJ kN
    """.split()  # noqa: SIM905
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
)
NO_UNIT = re.compile(rf"(?:squared|cubed|factorial|{MONTHS})\b")
"""Behind a number: 5 squared is another, 1 May is none."""
_SIZED = re.compile(
    r"([0-9.,]*[0-9])\s+(hundred|thousand|million|billion|trillion)\b", re.IGNORECASE
)
PERCENT = re.compile(r"([0-9])\s*(?:percent\b|per cent\b|pct\b)")
ATTACHED = re.compile(
    rf"(?P<number>[-+−]?[{CURRENCY}]?-?{DIGITS}{EXPONENT})-?(?P<unit>[A-Za-zµ°]+)(?P<per>/[A-Za-z]+)?"
    r"(?:\^?\{?[23]\}?|[²³])?"
)
_PER = re.compile(rf"[-+−]?[{CURRENCY}]?-?{DIGITS}{EXPONENT}/[A-Za-z]{{3,}}")
"""$5/hour."""


_NAMED = r"\\(?:text|mathrm|textrm|mbox|operatorname|textit)\s*\{"
_UNIT_END = re.compile(
    r"(?P<number>.*[0-9}\)%])(?:\\[,;:! ]|[\s~-])*+(?:/(?=[A-Za-z]{3}))?"
    rf"(?:(?:{_NAMED}[\s~]*(?P<named>[^{{}}0-9=]*)\}}(?:/|\\[,; ]|\s)*+)++"
    r"|(?P<plain>[A-Za-zµ°][A-Za-zµ°./ ]*+))(?:\^\s*\{?-?[0-9]\}?|[²³])?",
    re.DOTALL,
)


_SHORT_END = re.compile(
    r"(?P<number>.*?[0-9])\s+(?P<unit>°?[A-Za-z]{1,3}(?:/[A-Za-z]{1,3})?)(?:\^\{?[23]\}?|[²³])?"
)


def sized(text: str) -> str:
    """The text with size words as powers of ten: `5*10^{6}` of `5 million`."""
    return _SIZED.sub(lambda found: f"{found[1]}*10^{{{_SCALES[found[2].lower()]}}}", text)


def attached_unit(text: str) -> tuple[str, str] | None:
    """(12, m) of `12m`, which may also be a product; (60, km/h) of `60km/h`."""
    found = ATTACHED.fullmatch(text.rpartition("=")[2].strip())
    unit = found["unit"] + (found["per"] or "") if found else ""
    return (found["number"], unit) if found and _is_short(unit) else None


def is_attached(word: str) -> bool:
    """A number and a unit without a space: `12m`, `60km/h`, `$5/hour`."""
    found = ATTACHED.fullmatch(word)
    if found is None:
        return _PER.fullmatch(word) is not None
    if found["per"]:
        return _is_short(found["unit"] + found["per"])
    return found["unit"] in SHORT_UNITS or len(found["unit"]) > 2


def _is_short(unit: str) -> bool:
    return all(part in SHORT_UNITS for part in unit.split("/"))


def without_unit(text: str) -> tuple[str | None, str]:
    """(the number or formula, its unit), where the text is a formula and a unit at most."""
    if len(text) > MAX_CHARS:
        return None, ""
    text = re.sub(rf"^\s*([-+]?)\s*(?:\\\$|[{CURRENCY}])\s*", r"\1", text)
    text = re.sub(rf"(?:\\\$|[{CURRENCY}])\s*$", "", text)
    text = re.sub(r"^\s*(?:US|USD|EUR|Rs\.?)\s*\$?\s*(?=[0-9])", "", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?\s*(?=[CF]$)", " °", text)
    attached = attached_unit(text)
    if attached and len(attached[1]) > 1:
        return attached
    text = PERCENT.sub(r"\1%", text)
    is_named = re.search(_NAMED, text)
    if not is_named and is_formula(text):
        single = _SHORT_END.fullmatch(text)
        if single and _is_short(single["unit"]) and is_formula(single["number"]):
            return single["number"], single["unit"]
        return text, ""
    if (whole := sized(text)) != text:
        return without_unit(whole)
    found = _UNIT_END.fullmatch(text)
    if found:
        unit = (found["named"] or found["plain"] or "").strip(" ~.")
        if NO_UNIT.match(unit):
            return text, ""
        is_attached = " " not in text.strip() and unit.lower() in ("k", "m", "b", "bn")  # 5k, $5M
        if not is_attached and unit.lower().split()[:1] not in (["and"], ["or"], ["to"]):
            return found["number"], unit
    return text, ""


def is_formula(formula: str) -> bool:
    try:
        parse(formula)
    except UnreadError:
        return False
    return True
