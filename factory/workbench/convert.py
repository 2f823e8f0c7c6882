"""Principles in other formats, as a constitution of ours.

    {"constitutions": [{"critic": ..., "revision": ...}]}     of the alignment handbook
    [{"critique_request(s)": ..., "revision_request(s)": ...}]   of Anthropic's constitutional AI, or
                                                              a mapping of names to such entries
    ["Which of these responses is ...", "Be honest.", ...]    comparisons, or principles in prose

as JSON, JSON lines, plain lines or Markdown bullets. An instruction that is not there is composed from
those that are, and named.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from factory.core.constitution import Constitution
from factory.core.errors import RecipeError
from factory.core.yamlfile import NO_TEXT, dump

_NAMES = {
    "critique": ("critique", "critic", "critique_request", "critique_requests", "critiques"),
    "revision": ("revision", "revision_request", "revision_requests", "revisions", "revise"),
    "compare": ("compare", "comparison", "comparisons", "question", "prompt"),
    "principle": ("principle", "text", "rule", "statement"),
}
_TITLES = ("title", "name", "id")
_LISTS = ("constitutions", "constitution", "principles", "data")
_BULLET = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_OPENING = re.compile(
    r"^(?:(?:please )?choose the (?:assistant )?(?:response|answer) that|"
    r"which (?:of these )?(?:assistant )?(?:responses?|answers?)(?: is| are)?)\b", re.IGNORECASE,
)  # fmt: skip
_LABELS = re.compile(r"^(?:critique ?request|revision ?request|critic)s?:\s*", re.IGNORECASE)
_STOP = frozenset(
    {
        *("the", "a", "an", "of", "is", "are", "to", "in", "that", "which", "your", "this", "how"),
        *("response", "responses", "answer", "answers", "assistant", "specific", "identify", "all"),
        *("please", "rewrite", "last", "ways", "these", "and", "or", "be", "any", "it", "from"),
    }
)
"""Words that tell no principle from another, left out of ids."""
_MAX_BYTES = 10_000_000
_ID_LENGTH = 60


class Converted(NamedTuple):
    """A constitution and what was made up for it."""

    text: str
    """YAML that loads."""
    principles: int
    composed: dict[str, list[str]]
    """Id of a principle -> instructions that were composed."""
    skipped: list[str]
    """Entries that hold no principle, with their place."""


def convert(path: Path, name: str) -> Converted:
    """Read `path` as a constitution. Raises `RecipeError` if nothing in it is a principle."""
    made: list[dict[str, str]] = []
    composed: dict[str, list[str]] = {}
    skipped: list[str] = []
    ids: set[str] = set()
    for where, entry in _entries(path):
        texts = _texts(entry)
        about = entry if isinstance(entry, dict) else {}
        given = next((about[key] for key in _TITLES if isinstance(about.get(key), str)), "")
        if not texts:
            skipped.append(f"{where}: no text of a principle in {_short(entry)}")
            continue
        if odd := NO_TEXT.search("".join([given, *texts.values()])):
            skipped.append(f"{where}: the character U+{ord(odd[0]):04X} is no text; remove it")
            continue
        filled = _filled(texts)
        source = next(iter(texts.values()))
        slug = _unique(_slug(given or source) or "principle", ids)
        title = given.strip() or _short_title(source)
        made.append({"id": slug, "title": title, **filled})
        if missing := [field for field in filled if field not in texts]:
            composed[slug] = missing
    if not made:
        why = f" ({skipped[0]})" if skipped else ""
        raise RecipeError(
            f"{path}: nothing in it is a principle{why}; give a list of texts or mappings"
        )
    data = {
        "name": name, "version": "1.0.0", "description": f"Imported from {path.name}.",
        "principles": made,
    }  # fmt: skip
    Constitution.model_validate(data)
    notes = [
        "# Imported. Composed by a template, so read them: critique, revision or compare of",
        *(f"#   {slug}: {', '.join(fields)}" for slug, fields in composed.items()),
    ]
    return Converted(
        "\n".join([*(notes if composed else ["# Imported."]), dump(data)]),
        len(made), composed, skipped,
    )  # fmt: skip


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, entry) of each."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(
                f"{path} is larger than {_MAX_BYTES:,} bytes; give the principles alone"
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as UTF-8 text: {error}") from error
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{path}:{number}", _json(line, f"{path}:{number}")
    elif suffix == ".json":
        yield from _listed(_json(text, str(path)), str(path))
    else:
        lines = text.splitlines()
        has_bullets = any(_BULLET.match(line) for line in lines)
        for number, line in enumerate(lines, 1):
            said = _BULLET.sub("", line).strip()
            if said and not line.startswith("#") and (not has_bullets or _BULLET.match(line)):
                yield f"{path}:{number}", said


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not JSON: {error}") from error


def _listed(data: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key in _LISTS:
            if isinstance(data.get(key), list | dict):
                yield from _listed(data[key], f"{where} {key}")
                return
        if _texts(data):
            yield where, data
            return
        for key, value in data.items():
            named = {"name": key, **value} if isinstance(value, dict) else value
            yield f"{where} {key}", named
    elif isinstance(data, list):
        yield from ((f"{where} [{i}]", entry) for i, entry in enumerate(data))
    else:
        yield where, data


def _texts(entry: Any) -> dict[str, str]:
    """The instructions that an entry has; of a list of wordings, the first."""
    if isinstance(entry, str):
        said = entry.strip()
        field = "compare" if _OPENING.match(said) else "principle"
        return {field: said} if said else {}
    found: dict[str, str] = {}
    for field, names in _NAMES.items() if isinstance(entry, dict) else ():
        for name in names:
            value = entry.get(name)
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, str) and (said := _LABELS.sub("", value.strip())):
                found.setdefault(field, said)
    return found


def _filled(texts: dict[str, str]) -> dict[str, str]:
    """The three instructions; those that are missing composed."""
    base = texts.get("principle") or texts.get("compare") or texts.get("critique")
    base = _one_line(base or texts["revision"])
    composed = {
        "critique": f"Point out every part of your last answer that goes against this: {base}",
        "revision": f"Rewrite the answer so that it follows this: {base}",
        "compare": f"Which answer follows this better: {base.rstrip('.?!')}?",
    }
    if "compare" not in texts and "principle" not in texts:
        if "critique" in texts:
            composed["compare"] = f'Which answer gives a critic less to say who is asked: "{base}"?'
        else:
            composed["compare"] = f'Which answer needs this less: "{base}"?'
    return {field: texts.get(field, text) for field, text in composed.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    found = re.findall(r"[a-z0-9]+", plain.replace("'", ""))
    telling = [word for word in found if word not in _STOP] or found
    return "-".join(telling[:5])[:_ID_LENGTH].rstrip("-")


def _unique(slug: str, ids: set[str]) -> str:
    number, made = 1, slug
    while made in ids:
        number += 1
        made = f"{slug}-{number}"
    ids.add(made)
    return made


def _short_title(text: str) -> str:
    line = _one_line(text)
    return line if len(line) <= 70 else line[:67].rsplit(" ", 1)[0] + "..."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
