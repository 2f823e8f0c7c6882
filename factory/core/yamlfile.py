"""YAML files that people edit, loaded with line numbers for errors.

A `YamlFile` is parsed data that knows the line of each field. Every error names file, line, field,
what was found, what was expected and, for a mistyped name, the nearest known one.

A file that no person wrote (aliases that multiply, a million lines, a device) is refused at once.
"""

from __future__ import annotations

import difflib
import glob
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from factory.core.errors import RecipeError

Loc = tuple[int | str, ...]
"""A field's place: names in mappings, positions in lists."""


MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
"""Most values in a file. An alias counts as all the values it stands for."""
MAX_DEPTH = 50
MAX_ERRORS = 20
"""Most errors that one message lists."""
_MAX_INT = 2**63
_URL_SECRETS = re.compile(r"(://)\S*[@?#]\S*")

# Not text: half a surrogate pair has no bytes in UTF-8, and NUL ends a file's name.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """A loader of YAML 1.1, except that 1e-5 is a number, and 2026-01-31 and 12:30 are texts. Values
    are texts, numbers, true, false, null, lists and mappings. Raises only `yaml.YAMLError`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0

    def get_single_node(self) -> yaml.Node | None:
        try:
            root: yaml.Node | None = super().get_single_node()
        except (ValueError, OverflowError) as error:  # an escape such as "\U00110000"
            problem = "found an escape of a character that does not exist"
            raise yaml.scanner.ScannerError(None, None, problem, self.get_mark()) from error
        if root:
            _size(root, {})
        return root

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._values += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._values > MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, _too_many(), mark)
        if self._depth > MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and (odd := NO_TEXT.search(value)):
            problem = f"the character U+{ord(odd[0]):04X} is not allowed"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def number(self, node: yaml.ScalarNode) -> Any:
        """A number in any of YAML's forms, except 12:30, which is not 750."""
        text = str(self.construct_scalar(node))
        if ":" in text:
            return text
        is_whole = node.tag.endswith(":int")
        problem = f"{describe(text)} is not a {'whole ' if is_whole else ''}number"
        try:
            value = self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        except (ValueError, LookupError, OverflowError):
            if len(text) > 4000:
                problem = f"a number of {len(text):,} digits is too large"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None
        if is_whole and not -_MAX_INT <= value < _MAX_INT:
            problem = "this number is too large: whole numbers go up to 2**63 - 1"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def truth(self, node: yaml.ScalarNode) -> bool:
        try:
            return bool(self.construct_yaml_bool(node))
        except LookupError:
            problem = f"{describe(node.value)} is not true or false"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def refuse(self, node: yaml.Node) -> Any:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        problem = f"the tag {tag[:40]} is not used here"
        if node.tag.endswith(":value"):
            problem = "a text that is only '=' needs quotes"
        elif tag.startswith("!") and not tag.startswith("!!"):
            problem += "; a text that begins with '!' needs quotes"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""


_KEPT_TAGS = ("null", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is not None and tag.rpartition(":")[2] in _KEPT_TAGS
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.truth)
_Loader.add_constructor(None, _Loader.refuse)

for _reader in (_Loader, _Dumper):
    _reader.yaml_implicit_resolvers = {
        first: [(tag, words) for tag, words in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _reader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _too_many() -> str:
    return f"more than {MAX_VALUES:,} values"


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Number of values that the node stands for. `known`: those of nodes seen; None: it is being counted."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise yaml.composer.ComposerError(None, None, "it contains itself", node.start_mark)
        return size
    known[id(node)] = None
    size = 1
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                size += _size(part, known)
    if size > MAX_VALUES:
        problem = f"{_too_many()}, with what its aliases stand for"
        raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
    known[id(node)] = size
    return size


_REMEDIES = {
    "mapping values are not allowed here": "check the indentation; a text with ': ' in it needs quotes",
    "found character '\\t'": "indent with spaces, not tabs",
    "<block end>": "check the indentation",
    "could not find expected ':'": "a field is written name: value",
    "that cannot start any token": "a text that begins with it needs quotes",
}


def parse(text: str) -> Any:
    """The value of a YAML text. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_Loader)


def dump(data: Any) -> str:
    """YAML text that reads as `data`."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class YamlFile:
    """A parsed YAML file that knows the line of each field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._overrides: list[tuple[Loc, str]] = []
        text = _read(path)
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self._refuse_odd_keys(self._root, set())
            self.data: Any = loader.construct_document(self._root) if self._root else None
        except yaml.MarkedYAMLError as error:
            raise RecipeError(f"{path}:{_explain_syntax(error)}") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            character = f"the character U+{error.character:04X} is not allowed"
            raise RecipeError(f"{path}:{line} is not YAML: {character}") from error
        if not isinstance(self.data, dict):
            raise RecipeError(f"{path}:1 expected a mapping of fields, found {describe(self.data)}")

    def _refuse_odd_keys(self, node: yaml.Node | None, seen_nodes: set[int]) -> None:
        if id(node) in seen_nodes:
            return
        seen_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_odd_keys(item, seen_nodes)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            place = f"{self.path}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(
                    f"{place} the name of a field must be plain text; "
                    "a text that begins with '{' or '[' needs quotes"
                )
            if key.value in seen:
                name = clipped(key.value, 100)
                raise RecipeError(f"{place} '{name}' is given twice; keep one")
            seen.add(key.value)
            self._refuse_odd_keys(value, seen_nodes)

    def overridden(self, loc: Loc, text: str) -> None:
        """Record that `--set text` changed the data there: errors then name the option, not a line."""
        self._overrides.append((loc, text))

    def error(self, loc: Loc, message: str) -> RecipeError:
        """An error about one field, with its place: `recipe.yaml:14 stages[2].model: ...`."""
        depth, line = self._find(loc)
        message = clipped(message, 1000)
        for where, text in reversed(self._overrides):
            if where[: depth + 1] == loc[: depth + 1][: len(where)]:
                field = "" if where == loc else f"{dotted(loc)}: "
                return RecipeError(f"--set {clipped(text, 100)}: {field}{message}")
        return RecipeError(f"{self._place(loc, line)} {message}")

    def line(self, loc: Loc) -> int:
        """The line of a field, from 1, or of the innermost part around it that the file has."""
        return self._find(loc)[1]

    def _place(self, loc: Loc, line: int) -> str:
        field = f" {clipped(dotted(loc), 200)}:" if loc else ""
        return f"{self.path}:{line}{field}"

    def _find(self, loc: Loc) -> tuple[int, int]:
        """(number of parts of `loc` that are in the file, line, from 1, of the last one that is)."""
        node, line = self._root, 1
        for depth, part in enumerate(loc):
            child = _child(node, part)
            if child is None:
                return depth, line
            node, line = child
        return len(loc), line


class Given(YamlFile):
    """The same of data that stands in no file: errors name the field after `what`, not a line."""

    def __init__(self, what: str, data: Any = None) -> None:
        self.path = Path()
        self.data = data
        self._what = what
        self._overrides = []
        self._root = _Loader(dump(data)).get_single_node()

    def _place(self, loc: Loc, line: int) -> str:
        return f"{self._what}{clipped(dotted(loc), 200)}:"


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, int] | None:
    """A field or entry of the node, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _read(path: Path) -> str:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise RecipeError(missing_file(path))
        if not stat.S_ISREG(found.st_mode):
            raise RecipeError(f"{path} is a pipe or a device; name a file")
        if found.st_size > MAX_BYTES:
            raise RecipeError(
                f"{path} has {found.st_size:,} bytes, more than {MAX_BYTES:,}, too many for a file "
                "that a person edits; put prompts and data into files of their own"
            )
        raw = path.read_bytes()[: MAX_BYTES + 1]
    except FileNotFoundError:
        raise RecipeError(missing_file(path)) from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{str(path)!r} cannot be read: {said}") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise RecipeError(f"{path}:{line} is not UTF-8 text ({byte}); save it as UTF-8") from error


def _explain_syntax(error: yaml.MarkedYAMLError) -> str:
    """`10 is not YAML: while parsing a flow mapping that begins in line 9, expected ',' or '}'`."""
    problem = error.problem or "it makes no sense"
    remedy = next((f"; {remedy}" for part, remedy in _REMEDIES.items() if part in problem), "")
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    if error.context and error.context_mark and error.context_mark.line + 1 < line:
        problem = f"{error.context} that begins in line {error.context_mark.line + 1}, {problem}"
    if isinstance(error, yaml.constructor.ConstructorError):
        return f"{line} {problem}"  # well-formed YAML, but not a value that we accept
    return f"{line} is not YAML: {problem}{remedy}"


def dotted(loc: Loc) -> str:
    """('stages', 2, 'model') -> 'stages[2].model'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def describe(value: Any) -> str:
    """A short description of a value, as it looks in YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def clipped(text: str, length: int) -> str:
    """The text without what may be a secret in a URL (user and password, query). If it is longer than
    `length` characters, its middle is left out."""
    text = _URL_SECRETS.sub(r"\1...", text)
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def listed(errors: Sequence[str]) -> str:
    """Errors as one message, a line each: the first 20, and the number of the others."""
    shown = errors[:MAX_ERRORS]
    if len(errors) > MAX_ERRORS:
        shown = [*shown, f"and {len(errors) - MAX_ERRORS:,} more errors"]
    return "\n".join(shown)


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice most similar to the word, ignoring case; '' if none is similar."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else ""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or '' if no choice is similar."""
    found = closest(word, choices)
    return f"; did you mean '{found}'?" if found else ""


def missing_file(path: Path) -> str:
    """The message about a missing file, with the most similar name in its folder."""
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    folder, stem = missing.parent, glob.escape(path.stem)
    namesakes = (*folder.glob(f"*/{stem}.yaml"), *folder.glob(f"../*/{stem}.yaml"))
    found = closest(missing.name, (p.name for p in folder.iterdir()))
    near = folder / found if found and missing == path else next(iter(namesakes), None)
    return f"{path}: no such file" + (f"; did you mean {near}?" if near else "")
