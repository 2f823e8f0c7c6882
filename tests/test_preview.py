from __future__ import annotations

import io

from rich.console import Console

from factory.cli.show import show, word_diff
from factory.core.records import Candidate, Critique, Failure, Sample, StepLabels, Verdict


def shown(result: Sample | Failure) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    show(result, console)
    return console.export_text()


def test_a_revision_is_shown_as_a_diff_of_words() -> None:
    diff = word_diff("the cat sat down", "the dog sat")
    assert diff.plain == "the [-cat-] {+dog+} sat [-down-]"


def test_long_texts_are_not_compared() -> None:
    old, new = ("a b " * 1_500, "b a " * 1_500)
    assert word_diff(old, new).plain == new


def test_a_sample_is_shown_with_answer_critique_revision_and_verdict() -> None:
    sample = Sample(
        "p0",
        3,
        [{"role": "user", "content": "Why?"}],
        candidates=[
            Candidate(0, "because it is", "generate", "policy", "c0"),
            Candidate(1, "because it was", "revise", "policy", "c1", parent=0, round=1),
        ],
        critiques=[Critique(0, 1, ["plain-words"], "too vague", "c2", "Criticise.")],
        verdicts=[Verdict("judge", 1, 0, 0.75, 0.5, False, 0.5, ["plain-words"], [])],
    )
    text = shown(sample)
    for part in (
        "row 3  p0",
        "Why?",
        "critique of answer 0: plain-words",
        "too vague",
        "because it [-is-] {+was+}",
        "P(answer 1 better than answer 0) = 0.750, plain-words; the two orders disagree",
    ):
        assert part in text


def test_a_failure_is_shown_with_its_stage_and_words() -> None:
    text = shown(Failure(2, 3, None, "source", "not JSON", "{oops", True))
    assert "row 2 quarantined" in text
    assert "source: not JSON" in text
    assert "{oops" in text


def test_steps_are_shown_with_their_scores() -> None:
    sample = Sample("p0", 0, [{"role": "user", "content": "1 + 1 + 1?"}])
    sample.candidates = [Candidate(0, "1 + 1 = 2\n2 + 1 = 4", "generate", "policy", "c0")]
    sample.step_labels = [
        StepLabels(
            "prm", 0, ["1 + 1 = 2", "2 + 1 = 4", "4"], [0.9, 0.125, None], [True, False, None]
        )
    ]
    text = shown(sample)
    assert "steps of answer 0: prm" in text
    assert "right 0.90  1 + 1 = 2" in text
    assert "wrong 0.12  2 + 1 = 4" in text
    assert "?           4" in text


def test_control_characters_of_models_and_users_are_shown_and_not_obeyed() -> None:
    hostile = "\x1b[31mred\x1b]0;title\x07 \u202eevil\r\x9b2J [bold]not markup[/bold]"
    sample = Sample(
        f"id{hostile}",
        0,
        [{"role": "user", "content": hostile}],
        candidates=[
            Candidate(0, hostile, "generate", "policy", "c0"),
            Candidate(1, f"new {hostile}", "revise", "policy", "c1", parent=0, round=1),
        ],
    )
    failure = Failure(0, None, hostile, "judge", hostile, hostile, False)
    for result in (sample, failure):
        text = shown(result)
        assert not set("\x1b\x07\u202e\r\x9b") & set(text)
        assert "\\x1b[31mred" in text
        assert "[bold]not markup[/bold]" in text
