"""YAML files that people edit: load one, and say by line what is wrong with it.

A `YamlFile` is parsed data that knows where each field stands. Every complaint names file, line,
field, what was found, what was expected and, for a mistyped name, the nearest right one.
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from factory.errors import RecipeError

Loc = tuple[int | str, ...]
"""Where a field is: names in mappings, positions in lists."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 1e-5 is the number it looks like, and 2026-01-31 is text."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""


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
    """A parsed YAML file that remembers on which line each field stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._overrides: list[tuple[Loc, str]] = []
        text = _read(path)
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self._refuse_odd_keys(self._root)
            self.data: Any = loader.construct_document(self._root) if self._root else None
        except yaml.MarkedYAMLError as error:
            raise RecipeError(f"{path}:{_explain_syntax(error)}") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            character = f"the character U+{error.character:04X} is not allowed"
            raise RecipeError(f"{path}:{line} is not YAML: {character}") from error
        except RecursionError:
            raise RecipeError(f"{path} is nested too deeply, or contains itself") from None
        if not isinstance(self.data, dict):
            raise RecipeError(f"{path}:1 expected a mapping of fields, found {describe(self.data)}")

    def _refuse_odd_keys(self, node: yaml.Node | None) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_odd_keys(item)
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
                raise RecipeError(f"{place} '{key.value}' is given twice; keep one")
            seen.add(key.value)
            self._refuse_odd_keys(value)

    def overridden(self, loc: Loc, text: str) -> None:
        """Note that `--set text` changed the data there; errors about it name that, not a line."""
        self._overrides.append((loc, text))

    def error(self, loc: Loc, message: str) -> RecipeError:
        """An error about one field, with its place: `recipe.yaml:14 stages[2].model: ...`."""
        depth, line = self._find(loc)
        for where, text in reversed(self._overrides):
            if where[: depth + 1] == loc[: depth + 1][: len(where)]:
                field = "" if where == loc else f"{dotted(loc)}: "
                return RecipeError(f"--set {text}: {field}{message}")
        field = f" {dotted(loc)}:" if loc else ""
        return RecipeError(f"{self.path}:{line}{field} {message}")

    def _find(self, loc: Loc) -> tuple[int, int]:
        """(how many parts of `loc` stand in the file, the line, from 1, of the last that does)."""
        node, line = self._root, 1
        for depth, part in enumerate(loc):
            child = _child(node, part)
            if child is None:
                return depth, line
            node, line = child
        return len(loc), line


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
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(missing_file(path)) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise RecipeError(f"{path}:{line} is not UTF-8 text ({byte}); save it as UTF-8") from error


def _explain_syntax(error: yaml.MarkedYAMLError) -> str:
    """`10 is not YAML: while parsing a flow mapping that begins in line 9, expected ',' or '}'`"""
    problem = error.problem or "it makes no sense"
    remedy = next((f"; {remedy}" for part, remedy in _REMEDIES.items() if part in problem), "")
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    if error.context and error.context_mark and error.context_mark.line + 1 < line:
        problem = f"{error.context} that begins in line {error.context_mark.line + 1}, {problem}"
    return f"{line} is not YAML: {problem}{remedy}"


def dotted(loc: Loc) -> str:
    """('stages', 2, 'model') -> 'stages[2].model'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def describe(value: Any) -> str:
    """A value in a few words, as it looks in YAML."""
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


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice most like the word, capitals or not; '' if none is like it."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else ""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing."""
    found = closest(word, choices)
    return f"; did you mean '{found}'?" if found else ""


def missing_file(path: Path) -> str:
    """What to say about a file that is not there, with the nearest that is."""
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
