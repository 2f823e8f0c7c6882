r"""A formula or number as text, LaTeX or plain -> its tree. All of the text is read, or nothing is.

    "2 2/3"  "\frac{8}{3}"  "1,234.50"  "2\sqrt{3}"  "x = 5"  "[1, \infty)"  "\{1, 2\}"  "10\%"

Numbers are exact: no text becomes a float. What a text does not say is not guessed: `3 4`, `3:45`,
`2024-05-01` and `5 feet 3 inches` have no tree.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction

from factory.math.latex import WORDS, spelled
from factory.math.tokens import Token, UnreadError, digits_value, tokens
from factory.math.tree import Node, is_value, leaves

MAX_CHARS = 600
"""Longer texts are no final answer."""


_GREEK = frozenset(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
    rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega
    """.split()  # noqa: SIM905
)
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp".split()  # noqa: SIM905
)
_PLAIN_NAMES = _FUNCTIONS | {"sqrt", "abs", "pi", "inf", "infinity", "infty"}
_NO_PRODUCTS = frozenset(
    "is in or to of at an it we so no if by on my he be do go up us me as am and the not".split()  # noqa: SIM905
)
_SETS = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals", "C": "complexes"}
_RELATIONS = "=<>≤≥≈"
_PRODUCTS = {"*": "mul", "/": "slash", "÷": "divide"}


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Node:
    """The tree of all of the text. Raises `UnreadError`."""
    if len(text) > MAX_CHARS:
        raise UnreadError("too long")
    text = re.sub(r"^0+(?=[0-9]+(?:\.[0-9]+)?$)", "", spelled(text).strip())
    text = WORDS.sub(lambda found: f" {found[1]} ", text).strip()  # a unit, or a name
    try:
        return _Parser([*tokens(text)]).whole()
    except RecursionError as error:
        raise UnreadError("too deep") from error


class _Parser:
    """Recursive descent over the tokens; each method reads one level and moves on."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._bars = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _is(self, *texts: str) -> bool:
        return self._next.text in texts

    def _take(self) -> Token:
        token = self._next
        self._at += 1
        return token

    def _taken(self, *texts: str) -> str:
        """The next token, taken if it is one of these; else the empty text."""
        return self._take().text if self._is(*texts) else ""

    def _expect(self, what: str) -> None:
        if not self._taken(what):
            raise UnreadError(f"expected {what}, found {self._next.text!r}")

    def whole(self) -> Node:
        tree = self._statement()
        if self._next.kind != "end":
            raise UnreadError(f"expected end, found {self._next.text!r}")
        return tree

    # statement := relation {, relation}
    def _statement(self) -> Node:
        items = [self._relation()]
        while self._taken(",", ";"):
            items.append(self._relation())
        return items[0] if len(items) == 1 else Node("list", tuple(items))

    # relation := union {= union}
    def _relation(self) -> Node:
        sides, signs = [self._union()], []
        while sign := self._taken(*_RELATIONS):
            signs.append(sign)
            sides.append(self._union())
        if "≈" in signs:
            signs, sides = _without_rounded(signs, sides)
        if self._taken("\\in"):
            return Node("in", (sides[-1], self._union()))
        return Node("relation", (tuple(signs), *sides)) if signs else sides[0]

    def _union(self) -> Node:
        items = [self._sum()]
        while self._taken("\\cup"):
            items.append(self._sum())
        return items[0] if len(items) == 1 else Node("union", tuple(items))

    def _sum(self) -> Node:
        terms: list[Node] = []
        while not terms or self._is("+", "-", "±"):
            sign = self._taken("+", "-", "±")
            term = self._product()
            if sign == "±":
                if terms:
                    raise UnreadError("± within a sum")
                term = Node("plusminus", (term,))
            terms.append(Node("neg", (term,)) if sign == "-" else term)
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def _product(self) -> Node:
        found = self._factor()
        while True:
            if sign := self._taken(*_PRODUCTS):
                found = Node(_PRODUCTS[sign], (found, self._signed()))
            elif self._begins_factor():
                found = Node("mul", (found, self._factor()))
            else:
                return found

    def _signed(self) -> Node:
        sign = self._taken("-", "+")
        value = self._factor()
        return Node("neg", (value,)) if sign == "-" else value

    def _begins_factor(self) -> bool:
        """True at a factor that multiplies without a sign: 2x, 3(4). Two adjacent numbers are no product."""
        if self._next.kind == "macro":
            return not self._is("\\cup", "\\in", "\\rfloor", "\\rceil")
        is_open = self._is("(", "{") or (self._is("|") and not self._bars)
        return is_open or self._next.kind == "word"

    def _factor(self) -> Node:
        found = self._atom()
        while sign := self._taken("^", "!", "%"):
            if sign == "^":
                found = Node("pow", (found, self._exponent()))
            else:
                found = Node("factorial" if sign == "!" else "percent", (found,))
        return found

    def _exponent(self) -> Node:
        if self._is("-", "+"):
            return self._signed()
        found = self._atom()  # right to left: 2^3^2 is 2^9
        return Node("pow", (found, self._exponent())) if self._taken("^") else found

    def _group(self) -> Node:
        """The contents of braces, such as a macro's argument."""
        self._expect("{")
        found = self._relation()
        self._expect("}")
        return found

    def _atom(self) -> Node:
        token = self._take()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "word":
            return self._word(token.text)
        if token.kind == "macro":
            return self._macro(token.text[1:])
        if token.kind == "begin":
            return self._matrix(token.text)
        match token.text:
            case "(" | "[":
                return self._bracket(token.text)
            case "{":
                found = self._statement()
                self._expect("}")
                return Node("set", found.args) if found.op == "list" else found
            case "\\{":
                found = self._statement()
                self._expect("\\}")
                return Node("set", found.args if found.op == "list" else (found,))
            case "|":
                self._bars += 1
                found = self._sum()
                self._bars -= 1
                self._expect("|")
                return Node("abs", (found,))
        raise UnreadError(f"{token.text!r} is out of place")

    def _bracket(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        found = self._statement()
        self._bars = bars
        if not (closing := self._taken(")", "]")):
            raise UnreadError("a bracket is not closed")
        if found.op == "list":
            return Node("tuple", (opening + closing, *found.args))
        match opening + closing:
            case "()":
                return found
            case "[]":
                return Node("tuple", ("[]", found))
        raise UnreadError("brackets that do not match")

    def _number(self, token: Token) -> Node:
        if re.match(r"0[0-9]", token.text):
            raise UnreadError("a number that begins with 0")
        whole = Node("num", (digits_value(token.text),))
        following = self._tokens[self._at : self._at + 3]
        is_int = token.text.isdigit()
        if self._is("\\overline") and "." in token.text:
            return self._recurring(token.text)
        if is_int and [t.kind for t in following] == ["number", "sign", "number"]:  # 2 2/3
            over, slash, under = following
            is_apart = over.at > token.end and over.end == slash.at and slash.end == under.at
            if slash.text == "/" and is_apart and over.text.isdigit() and under.text.isdigit():
                self._at += 3
                return _mixed(whole, int(over.text), int(under.text))
        if self._next.kind == "number":
            raise UnreadError("two numbers side by side")
        if is_int and self._is("\\frac"):
            at = self._at
            fraction = self._atom()
            parts = [part.args[0] for part in fraction.args if part.op == "num"]
            are_whole = len(parts) == 2 and all(part.denominator == 1 for part in parts)
            if are_whole and parts[0] < parts[1]:
                return _mixed(whole, int(parts[0]), int(parts[1]))
            self._at = at
        return whole

    def _recurring(self, digits: str) -> Node:
        self._take()
        self._expect("{")
        again = self._take().text
        self._expect("}")
        if not again.isdigit():
            raise UnreadError("a recurring decimal of no digits")
        places = len(digits.partition(".")[2])
        more = Fraction(int(again), (10 ** len(again) - 1) * 10**places)
        return Node("num", (Fraction(f"{digits}0") + more,))

    def _word(self, word: str) -> Node:
        if word.lower() in _PLAIN_NAMES and len(word) > 1:
            name = word.lower()
            return self._macro("infty" if name in ("inf", "infinity") else name)
        if len(word) > 1 and not _is_product(word):
            raise UnreadError(f"{word!r} is a word")
        found = self._symbol(word[-1])
        for letter in reversed(word[:-1]):
            found = Node("mul", (_letter(letter), found))
        return found

    def _symbol(self, name: str) -> Node:
        if not self._taken("_"):
            return _letter(name)
        if not self._taken("{"):
            return Node("sym", (f"{name}_{self._take().text}",))
        below = ""
        while not self._is("}") and self._next.kind != "end":
            below += self._take().text
        self._expect("}")
        return Node("sym", (f"{name}_{below}",))

    def _macro(self, name: str) -> Node:
        match name:
            case "pi":
                return Node("const", ("pi",))
            case "infty":
                return Node("const", ("oo",))
            case "emptyset":
                return Node("set", ())
            case "frac":
                return Node("frac", (self._group(), self._group()))
            case "binom" | "dbinom" | "tbinom":
                return Node("binomial", (self._group(), self._group()))
            case "sqrt":
                return self._root()
            case "mathbb":
                letter = self._group().args[0]
                if letter in _SETS:
                    return Node("const", (_SETS[letter],))
            case "lfloor" | "lceil":
                found = self._sum()
                self._expect("\\r" + name[1:])
                return Node(name[1:], (found,))
            case "abs":
                return Node("abs", (self._atom(),))
        if name in _FUNCTIONS:
            return self._call(name)
        if name in _GREEK:
            return self._symbol(name)
        raise UnreadError(f"\\{name} is not understood")

    def _root(self) -> Node:
        index = Node("num", (Fraction(2),))
        if self._taken("["):
            index = self._sum()
            self._expect("]")
        radicand = self._group() if self._is("{") else self._atom()
        return Node("root", (radicand, index))

    def _call(self, name: str) -> Node:
        r"""\sin x, \sin(x), \sin^2 x, \log_2 8."""
        base = power = None
        for _ in range(2):
            if power is None and self._taken("^"):
                power = self._exponent()
            elif base is None and self._taken("_"):
                base = self._base()
        if self._is("(", "{"):
            argument = self._atom()
        else:
            argument = self._factor()
            while self._begins_factor() and self._next.text[1:] not in _FUNCTIONS:
                argument = Node("mul", (argument, self._factor()))
        found = Node("call", (name, argument) if base is None else (name, argument, base))
        return found if power is None else Node("pow", (found, power))

    def _base(self) -> Node:
        if self._next.kind == "number" and self._next.text.isdigit():
            return Node("num", (Fraction(self._take().text),))  # what follows is the argument
        return self._atom()

    def _matrix(self, begin: str) -> Node:
        name = begin.partition("{")[2]
        if not begin.startswith("\\begin") or "matrix" not in name:
            raise UnreadError(f"{begin} is not understood")
        rows = [[self._relation()]]
        while sign := self._taken("&", "\\\\"):
            if sign == "&":
                rows[-1].append(self._relation())
            elif self._next.kind != "begin":
                rows.append([self._relation()])
        if self._next.kind != "begin" or not self._take().text.startswith("\\end"):
            raise UnreadError("a matrix without an end")
        if len({len(row) for row in rows}) != 1:
            raise UnreadError("a matrix with rows of different length")
        return Node("matrix", tuple(tuple(row) for row in rows))


def _is_product(word: str) -> bool:
    """Letters that stand for a product: ab, xyz. What reads as a word does not."""
    if len(word) == 2:
        return word.isascii() and word.lower() not in _NO_PRODUCTS
    return len(word) == 3 and word in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _without_rounded(signs: list[str], sides: list[Node]) -> tuple[list[str], list[Node]]:
    """Drop `≈` after a value, where it is a remark: 1/6 ≈ 0.167. Elsewhere it means `=`: x ≈ 3.14."""
    for i, sign in enumerate(signs):
        is_known = is_value(sides[i]) and all(leaf.op != "sym" for leaf in leaves(sides[i]))
        if sign == "≈" and is_known:
            signs, sides = signs[:i], sides[: i + 1]
            break
    return ["=" if s == "≈" else s for s in signs], sides


def _letter(name: str) -> Node:
    return Node("const", (name,)) if name in ("e", "i") else Node("sym", (name,))


def _mixed(whole: Node, over: int, under: int) -> Node:
    if not 0 < over < under:
        raise UnreadError("not a mixed number")
    return Node("num", (whole.args[0] + Fraction(over, under),))
