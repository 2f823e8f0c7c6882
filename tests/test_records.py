from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.records import (
    Candidate,
    Critique,
    Reading,
    Sample,
    Score,
    Verdict,
    from_row,
    to_row,
)

PROMPT = [{"role": "user", "content": "Why is the sky blue?"}]


def family(*parents: int | None, dropped: tuple[int, ...] = ()) -> Sample:
    """A sample whose n-th candidate revises the n-th of `parents`."""
    sample = Sample("s", 0, PROMPT)
    for i, parent in enumerate(parents):
        round_ = 0 if parent is None else sample.candidates[parent].round + 1
        reason = "too-short" if i in dropped else None
        sample.candidates.append(
            Candidate(
                i,
                f"text {i}",
                "revise" if round_ else "generate",
                "m",
                "c",
                parent,
                round_,
                drop_reason=reason,
            )
        )
    return sample


def numbers(candidates: list[Candidate]) -> list[int]:
    return [c.index for c in candidates]


@pytest.mark.parametrize(
    ("sample", "heads", "chains"),
    [
        (family(None, None), [0, 1], [(0, [0]), (1, [1])]),
        (family(None, None, 0, 1, 2), [3, 4], [(0, [4]), (1, [3])]),
        # A revision that was dropped is not revised further, but gives way to the one before.
        (family(None, 0, 1, dropped=(2,)), [], [(0, [1])]),
        (family(None, 0, dropped=(1,)), [], [(0, [0])]),
        (family(None, 0, dropped=(0,)), [1], [(0, [1])]),
        (family(None, 0, 1, dropped=(1,)), [2], [(0, [2])]),
        (family(None, 0, dropped=(0, 1)), [], [(0, [])]),
        # Two revisions of one answer.
        (family(None, 0, 0), [1, 2], [(0, [1, 2])]),
        (family(), [], []),
    ],
)
def test_the_newest_of_each_line_of_revisions(
    sample: Sample, heads: list[int], chains: list[tuple[int, list[int]]]
) -> None:
    assert numbers(sample.heads()) == heads
    assert [(c.index, numbers(newest)) for c, newest in sample.chains()] == chains


@pytest.mark.parametrize(
    ("sample", "pairs"),
    [
        (family(None, None), []),
        (family(None, None, 0, 1, 2), [(0, 4), (1, 3)]),
        (family(None, 0, 1, dropped=(2,)), [(0, 1)]),
        (family(None, 0, dropped=(1,)), []),
        (family(None, 0, dropped=(0,)), []),
        (family(None, 0, 0), [(0, 1), (0, 2)]),
    ],
)
def test_revision_pairs_need_both_ends_kept(sample: Sample, pairs: list[tuple[int, int]]) -> None:
    assert [(a.index, b.index) for a, b in sample.revision_pairs()] == pairs


def test_the_root_of_a_revision_is_its_initial_answer() -> None:
    sample = family(None, None, 1, 2)
    assert [sample.root(c).index for c in sample.candidates] == [0, 1, 1, 1]


def test_a_conversation_is_the_prompt_and_the_answer() -> None:
    sample = family(None)
    assert sample.conversation(sample.candidates[0]) == [
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "text 0"},
    ]
    assert len(sample.prompt) == 1


text = st.text(max_size=20)  # any Unicode but surrogates
small = st.integers(0, 2**31 - 1)
p = st.none() | st.floats(0, 1)
samples = st.builds(
    Sample,
    id=text,
    index=st.integers(0, 2**63 - 1),
    prompt=st.lists(st.fixed_dictionaries({"role": text, "content": text}), max_size=2),
    tags=st.lists(text, max_size=2),
    reference=st.none() | text,
    candidates=st.lists(
        st.builds(
            Candidate,
            index=small,
            text=text,
            origin=text,
            model=text,
            call=text,
            parent=st.none() | small,
            round=small,
            finish_reason=text,
            output_tokens=small,
            drop_reason=st.none() | text,
        ),
        max_size=2,
    ),
    critiques=st.lists(
        st.builds(
            Critique,
            candidate=small,
            round=small,
            principle_ids=st.lists(text, max_size=2),
            text=text,
            call=text,
            request=text,
            few_shot=small,
        ),
        max_size=2,
    ),
    verdicts=st.lists(
        st.builds(
            Verdict,
            judge=text,
            a=small,
            b=small,
            p=p,
            order_gap=p,
            is_consistent=st.none() | st.booleans(),
            agreement=p,
            principle_ids=st.lists(text, max_size=2),
            readings=st.lists(
                st.builds(
                    Reading,
                    principle_id=text,
                    is_swapped=st.booleans(),
                    p=p,
                    label_mass=st.floats(0, 1),
                    call=text,
                    reasoning=text,
                ),
                max_size=2,
            ),
        ),
        max_size=2,
    ),
    scores=st.lists(
        st.builds(
            Score,
            name=text,
            candidate=small,
            value=st.none() | st.floats(allow_nan=False),
            detail=text,
            calls=st.lists(text, max_size=2),
        ),
        max_size=2,
    ),
)


@given(samples)
def test_a_row_becomes_the_same_sample_again(sample: Sample) -> None:
    assert from_row(to_row(sample)) == sample


def test_lists_are_not_shared_between_samples() -> None:
    first, second = Sample("a", 0, PROMPT), Sample("b", 1, PROMPT)
    first.tags.append("safety")
    assert second.tags == []
