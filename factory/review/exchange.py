"""Pairs to decide elsewhere, as JSON lines, and decisions made elsewhere.

An exported line is a `Decision` with its texts; its `label` is null until somebody decides. Imported
texts do not matter: the pair is found by `prompt_id`, `a` and `b`, and recorded with the run's own texts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from factory.core.errors import FactoryError, RecipeError
from factory.core.files import whole
from factory.core.records import Message
from factory.export.decisions import (
    Decision,
    PairKey,
    checked_edit,
    line_of,
    newest,
    parse,
    path_of,
    read_file,
)
from factory.pipeline import traces as shards
from factory.review.journal import NAME, now, opened
from factory.review.queue import Item

Texts = tuple[list[Message], str, str]
"""Prompt, answer `a`, answer `b`."""


class Imported(msgspec.Struct):
    """What became of the lines of an imported file."""

    taken: dict[str, int]
    """Reviewer -> decisions recorded."""
    known: int = 0
    """Lines that say what is recorded already."""
    undecided: int = 0
    left_out: list[str] = []
    """`FILE:LINE: reason` of each line that was not taken."""


def export_pairs(run: Path, items: Sequence[Item], reviewer: str, out: Path) -> tuple[int, int]:
    """Write a line for each item, in order, with the reviewer's decisions. Returns the number of lines
    and of decisions. Raises `RecipeError` if the file exists."""
    if out.exists():
        raise RecipeError(f"--export {out} exists and may hold decisions; name another file")
    texts = _texts(run, items)
    path = path_of(run, reviewer)
    decided = newest(read_file(path)) if path.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as half, half.open("wb") as file:
        for item in items:
            prompt, a, b = texts[item.key]
            new = Decision(
                prompt_id=item.key[0],
                a=item.key[1],
                b=item.key[2],
                label=None,
                is_random=item.is_random,
                prompt=prompt,
                response_a=a,
                response_b=b,
            )
            file.write(line_of(decided.get(item.key, new)))
    return len(items), sum(item.key in decided for item in items)


def import_decisions(run: Path, items: Sequence[Item], path: Path, reviewer: str) -> Imported:
    """Record the decisions of a file, each under its own `reviewer`, else under the one given. A line
    that names no pair of the run, or contradicts what is recorded, is left out. Nothing is recorded
    if a reviewer's decisions are open in another process."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecipeError(f"--import {path} cannot be read: {error.strerror}") from error
    texts = _texts(run, items)
    drawn = {item.key for item in items if item.is_random}
    found = Imported({})
    new: dict[str, dict[PairKey, tuple[int, Decision]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = _read(line, path, number, reviewer, run, texts)
        except FactoryError as error:
            found.left_out.append(str(error))
            continue
        mine = new.setdefault(given.reviewer or reviewer, {})
        if given.label == "undone":
            mine.pop(given.key, None)
        elif given.label in ("skip", None):
            found.undecided += 1
        elif (before := mine.get(given.key)) and not _same(before[1], given):
            found.left_out.append(
                f"{path}:{number}: decides otherwise than line {before[0]}; keep one of the two"
            )
        else:
            is_random = given.is_random or given.key in drawn
            mine[given.key] = (number, msgspec.structs.replace(given, is_random=is_random))
    with contextlib.ExitStack() as stack:
        journals = {name: stack.enter_context(opened(run, name)) for name in new if new[name]}
        for name, journal in journals.items():
            recorded = newest(journal.decisions)
            taken = []
            for number, decision in new[name].values():
                there = recorded.get(decision.key)
                if there is None or there.label == "skip":
                    taken.append(decision)
                elif _same(there, decision):
                    found.known += 1
                else:
                    found.left_out.append(
                        f"{path}:{number}: {name} decided '{there.label}' on this pair already, and "
                        f"the line says '{decision.label}' or has another edit; undo the one in the "
                        "review, or remove the line"
                    )
            if taken:
                journal.append(taken)
                found.taken[name] = len(taken)
    return found


def _read(
    line: bytes, path: Path, number: int, reviewer: str, run: Path, texts: dict[PairKey, Texts]
) -> Decision:
    """The decision of a line, with the run's texts. Raises `RecipeError` that names the line."""
    given = parse(line, path, number)
    name = given.reviewer or reviewer
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"{path}:{number}: reviewer {name[:60]!r} is no name; use letters, digits, . _ -"
        )
    if given.key not in texts:
        raise RecipeError(
            f"{path}:{number}: {run} has no such pair of prompt_id {given.prompt_id[:60]!r}: its texts "
            "are others now, or it is of another run"
        )
    prompt, a, b = texts[given.key]
    try:
        edit = checked_edit(given.label, given.edit, a, b)
    except ValueError as error:
        raise RecipeError(f"{path}:{number}: edit: {error}") from error
    return msgspec.structs.replace(
        given,
        edit=edit,
        reviewer=name,
        at=given.at or now(),
        prompt=prompt,
        response_a=a,
        response_b=b,
    )


def _same(first: Decision, second: Decision) -> bool:
    return (first.label, first.edit) == (second.label, second.edit)


def _texts(run: Path, items: Iterable[Item]) -> dict[PairKey, Texts]:
    by_index: dict[int, list[Item]] = {}
    for item in items:
        by_index.setdefault(item.index, []).append(item)
    found: dict[PairKey, Texts] = {}
    for sample in shards.read_samples(run):
        for item in by_index.get(sample.index, ()):
            a, b = sample.candidates[item.a], sample.candidates[item.b]
            found[item.key] = (sample.prompt, a.text, b.text)
    return found
