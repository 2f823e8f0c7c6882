"""People's decisions on pairs of answers: the record, its files, and what several people say together.

    RUN/reviews/NAME/decisions.jsonl   one reviewer's decisions, a JSON object a line, only appended to

A pair is named by its sample's id and the hashes of its two answers, each taken together with the prompt.
So a decision follows its texts through every new export, and never applies to other texts. `a` and `b`
are in the order of the hashes, which says nothing of which answer the judge preferred. The newest line
on a pair counts. A line holds the texts too: it is also a row of a data set by which judges are measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from factory.core.errors import FactoryError, RecipeError
from factory.core.records import Candidate, Message, Sample

REVIEWS = "reviews"
"""Name of the folder in a run's folder."""
DECISIONS = "decisions.jsonl"

Label = Literal["a", "b", "tie", "both_bad"]
Mark = Literal["a", "b", "tie", "both_bad", "skip", "undone"]
PairKey = tuple[str, str, str]
"""The sample's id, and the hashes of the answers `a` and `b`, the smaller hash first."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a decisions file."""

    prompt_id: str
    a: str
    b: str
    label: Mark | None
    """`a`, `b`: that answer is better. `skip`: seen and left for later. `undone`: the lines on this pair
    before do not count. None, in exported files only: not decided yet."""
    edit: str | None = None
    """The better answer, as the reviewer corrected it."""
    note: str | None = None
    reviewer: str | None = None
    left: Literal["a", "b"] | None = None
    """The answer that was shown on the left. None: unknown, as of imported decisions."""
    is_random: bool = False
    """The pair was among those drawn at random, so that it stands for all pairs."""
    at: str | None = None
    """Time of the decision, UTC: `2026-01-31T12:00:00Z`."""
    prompt: list[Message] = []
    response_a: str = ""
    response_b: str = ""

    @property
    def key(self) -> PairKey:
        return (self.prompt_id, self.a, self.b)


Decided = Mapping[PairKey, Decision]
"""One reviewer's decisions, the newest on each pair; none is undone."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Decision).decode


# Pairs --------------------------------------------------------------------------------------------


def content_hash(prompt: Iterable[Message], text: str) -> str:
    """32 hex digits of a prompt and an answer to it."""
    content = [[[m["role"], m["content"]] for m in prompt], text]
    return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()


def in_order(sample: Sample, x: Candidate, y: Candidate) -> tuple[PairKey, Candidate, Candidate]:
    """The pair's key, and its answers `a` and `b`. Equal texts have equal hashes: such a pair is none
    to decide on."""
    hashed = ((content_hash(sample.prompt, each.text), each) for each in (x, y))
    (a, first), (b, second) = sorted(hashed, key=lambda pair: pair[0])
    return (sample.id, a, b), first, second


# Files --------------------------------------------------------------------------------------------


def path_of(run: Path, reviewer: str) -> Path:
    return run / REVIEWS / reviewer / DECISIONS


def line_of(decision: Decision) -> bytes:
    """The line, with its end. Raises `ValueError` for a text that is no Unicode."""
    return _encode(decision) + b"\n"


def parse(line: bytes, path: Path, number: int) -> Decision:
    """Raises `RecipeError` that names the line."""
    try:
        found = _decode(line)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise RecipeError(
            f"{path}:{number}: no decision ({error}); mend or remove the line"
        ) from error
    if found.a >= found.b:
        raise RecipeError(
            f"{path}:{number}: a is {found.a[:40]!r} and b is {found.b[:40]!r}, expected two hashes, "
            "the smaller one first; leave both as they were exported"
        )
    return found


def lines_in(content: bytes) -> tuple[list[bytes], int]:
    """The whole lines of a decisions file, and the bytes that these take. A last line that was cut when
    its writer was killed is none of them: nobody was told that it is kept."""
    end = content.rfind(b"\n") + 1
    if is_json(content[end:]):  # only the end of the line is missing
        end = len(content)
    return content[:end].split(b"\n"), end


def is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_file(path: Path) -> list[Decision]:
    """All whole lines of a decisions file, in order. Raises `FactoryError` if it cannot be read."""
    try:
        lines, _ = lines_in(path.read_bytes())
    except OSError as error:
        raise FactoryError(f"{path} cannot be read ({error.strerror}); fix the file") from error
    return [parse(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def newest(decisions: Iterable[Decision]) -> dict[PairKey, Decision]:
    """The decision that counts on each pair, in the order in which these were made."""
    found: dict[PairKey, Decision] = {}
    for decision in decisions:
        count(found, decision)
    return found


def count(found: dict[PairKey, Decision], decision: Decision) -> None:
    """Add a decision, which is newer than all those before."""
    found.pop(decision.key, None)
    if decision.label not in ("undone", None):
        found[decision.key] = decision


def checked_edit(label: Mark | None, edit: str | None, a: str, b: str) -> str | None:
    """The edited text of the better of the answers `a` and `b`; None if nothing was changed. Raises
    `ValueError` for an edit that makes no pair."""
    if edit is None:
        return None
    if label not in ("a", "b"):
        raise ValueError("only the better answer can be edited: choose one")
    better, other = (a, b) if label == "a" else (b, a)
    if edit == better:
        return None
    if not edit.strip():
        raise ValueError("the edited answer is blank")
    if edit.strip() == other.strip():
        raise ValueError("the edited answer is the other answer: choose that one instead")
    return edit


def read_run(run: Path) -> dict[str, Decided]:
    """Reviewer -> decisions, of everybody who reviewed the run, by name."""
    paths = sorted((run / REVIEWS).glob(f"*/{DECISIONS}"))
    return {path.parent.name: newest(read_file(path)) for path in paths}


# Several people -----------------------------------------------------------------------------------


class Consensus(msgspec.Struct, frozen=True):
    """What the reviewers of one pair say together."""

    label: Label | None
    """The label of more than half of them. None: there is none."""
    reviewers: int
    edit: str | None = None
    """The better answer as corrected by those who prefer it; of several corrections the newest."""


def consensus(decisions: Iterable[Decision]) -> Consensus | None:
    """None: nobody decided; skipped is not decided."""
    votes = [d for d in decisions if d.label not in ("skip", "undone", None)]
    if not votes:
        return None
    labels = [vote.label for vote in votes]
    label = next((one for one in labels if 2 * labels.count(one) > len(labels)), None)
    edits = [v for v in votes if v.label == label and label in ("a", "b") and v.edit is not None]
    edit = max(edits, key=lambda v: v.at or "").edit if edits else None
    return Consensus(label, len(votes), edit)  # type: ignore[arg-type]  # neither skip nor undone


def by_pair(reviews: Mapping[str, Decided]) -> dict[PairKey, list[Decision]]:
    """Pair -> its decisions, by reviewer's name."""
    found: dict[PairKey, list[Decision]] = {}
    for _, decided in sorted(reviews.items()):
        for key, decision in decided.items():
            found.setdefault(key, []).append(decision)
    return found
