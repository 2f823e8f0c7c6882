"""People's choices between two answers, in every form that `factory eval judge` reads as rows.

- decisions of `factory review`: a decisions file, an exported one, a run's folder or its `reviews/`. Every
  reviewer is a column; of several lines on a pair the newest counts; skipped pairs have no label;
- pairs with `chosen` and `rejected`, as `factory export --reviewed` writes them. Which of the two is `a`
  depends on the texts alone, so that a judge that always says `a` gains nothing. Rows that nobody
  reviewed have no label;
- any other rows, as they are: their columns are named on the command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import RecipeError
from factory.evaluation.rows import Rows, open_rows
from factory.export.decisions import (
    DECISIONS,
    REVIEWS,
    Decision,
    by_pair,
    content_hash,
    newest,
    read_file,
)

PERSON = "label of "
"""Beginning of the name of a reviewer's column."""
_LABELS = ("a", "b", "tie", "both_bad")


def open_comparisons(data: str) -> Rows:
    """Raises `RecipeError` if there are none, or they were not chosen by people."""
    path = Path(data).expanduser()
    if "\0" not in data and (files := _decision_files(path)):
        return _decided_rows(data, files)
    rows = open_rows(data)
    columns = set(rows.features)
    if {"prompt", "chosen", "rejected"} <= columns and columns.isdisjoint({"response_a", "label"}):
        return _chosen_rows(rows)
    return rows


def _decision_files(path: Path) -> list[Path]:
    """The decisions files that a path names; none for other data."""
    if path.is_dir():
        patterns = (DECISIONS, f"*/{DECISIONS}", f"{REVIEWS}/*/{DECISIONS}")
        return next(filter(None, (sorted(path.glob(pattern)) for pattern in patterns)), [])
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            first = msgspec.json.decode(file.readline(), type=Decision)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return []
    # Other rows may have columns of the same names.
    return [path] if content_hash(first.prompt, first.response_a) == first.a else []


def _decided_rows(data: str, files: list[Path]) -> Rows:
    from datasets import Features, List, Value

    lines: dict[str, list[Decision]] = {}
    for path in files:
        for decision in read_file(path):
            name = decision.reviewer or path.parent.name
            named = msgspec.structs.replace(decision, reviewer=name)
            lines.setdefault(name, []).append(named)
    reviews = {name: newest(decisions) for name, decisions in lines.items()}
    pairs = by_pair(reviews)
    pairs = {key: [d for d in made if d.label in _LABELS] for key, made in pairs.items()}
    rows = [_row(made, list(reviews)) for made in pairs.values() if made]
    if not rows:
        raise RecipeError(
            f"{data} holds no decision on a pair yet; `factory review RUN` makes some"
        )
    text = Value("string")
    columns = dict.fromkeys(("response_a", "response_b", "prompt_id"), text)
    people = {f"{PERSON}{name}": text for name in reviews}
    features = Features(prompt=List({"role": text, "content": text}), **columns, **people)
    digest = hashlib.blake2b(msgspec.json.encode(rows), digest_size=16).hexdigest()
    return Rows(data, features, digest, lambda: iter(rows), len(rows))


def _row(decisions: list[Decision], names: list[str]) -> dict[str, Any]:
    one = decisions[0]
    labels = {decision.reviewer: decision.label for decision in decisions}
    return {
        "prompt": one.prompt,
        "response_a": one.response_a,
        "response_b": one.response_b,
        "prompt_id": one.prompt_id,
        **{f"{PERSON}{name}": labels.get(name) for name in names},
    }


def _chosen_rows(rows: Rows) -> Rows:
    from datasets import Features, Value

    if "reviewed" not in rows.features and "judged_by" in rows.features:
        raise RecipeError(
            f"{rows.name} was chosen by a judge or by scores, not by people: use what `factory export RUN "
            "--reviewed` writes, or a decisions file of `factory review`"
        )

    def read() -> Iterator[dict[str, Any]]:
        for row in rows.read():
            better, worse = row.get("chosen"), row.get("rejected")
            is_first = _digest(better) < _digest(worse)
            a, b = (better, worse) if is_first else (worse, better)
            label = ("a" if is_first else "b") if row.get("reviewed", True) else None
            yield row | {"response_a": a, "response_b": b, "label": label}

    kinds = rows.features
    made = {
        "response_a": kinds["chosen"],
        "response_b": kinds["rejected"],
        "label": Value("string"),
    }
    return msgspec.structs.replace(rows, features=Features({**kinds, **made}), read=read)


def _digest(answer: object) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(answer, enc_hook=repr), digest_size=16).digest()
