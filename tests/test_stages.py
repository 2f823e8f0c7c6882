"""The stages that make, criticize, revise and drop candidates; judges have files of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from factory.core.constitution import Constitution
from factory.core.errors import SampleError
from factory.core.records import Candidate, Message, Sample
from factory.core.seeds import derive_seed
from factory.stages.base import Stage, render
from factory.stages.critique import Criticize
from factory.stages.filter import Filter
from factory.stages.generate import Generate
from factory.stages.revise import Revise
from tests.conftest import CONSTITUTION
from tests.fakes import ScriptedModels, said

KIND = Constitution.model_validate(CONSTITUTION)
SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "Why is the sky blue?"}
GENERATE = Generate(model="policy")
CRITIQUE = Criticize(model="policy", principles=2)  # both of KIND's
REVISE = Revise(model="policy")


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def asked(*prompt: Message, tags: tuple[str, ...] = ()) -> Sample:
    return Sample("s", 0, [*(prompt or (QUESTION,))], tags=[*tags])


def answered(*texts: str, **fields: Any) -> Sample:
    sample = asked()
    sample.candidates = [
        Candidate(i, text, "generate", "policy", "c", **fields) for i, text in enumerate(texts)
    ]
    return sample


def numbered() -> ScriptedModels:
    """Models with the constitution whose n-th answer is `text <n>`."""
    return ScriptedModels([said(f"text {n}") for n in range(1, 100)], KIND)


def do(sample: Sample, models: ScriptedModels, *stages: Stage) -> Sample:
    async def go() -> Sample:
        done = sample
        for stage in stages:
            done = await stage(done, models)
        return done

    return asyncio.run(go())


# Generate --------------------------------------------------------------------------------------


def test_generate_makes_n_candidates_from_the_prompt() -> None:
    models = ScriptedModels([said(" Rayleigh. \n", tokens=4), said("Dust", reason="length")])
    sample = do(asked(SYSTEM, QUESTION), models, Generate(model="policy", n=2))
    assert sample.candidates == [
        Candidate(0, "Rayleigh.", "generate", "policy", "call1", None, 0, "stop", 4),
        Candidate(1, "Dust", "generate", "policy", "call2", None, 0, "length", 5),
    ]
    assert [q.messages for q in models.questions] == [[SYSTEM, QUESTION]] * 2


def test_every_candidate_has_a_salt_of_its_own_across_stages() -> None:
    models = numbered()
    do(asked(), models, Generate(model="policy", n=2), Generate(model="other", n=2))
    assert [q.salt for q in models.questions] == [("generate", i) for i in range(4)]


# Critique and revise ---------------------------------------------------------------------------


def test_generate_critique_and_revise_are_one_growing_conversation() -> None:
    models = numbered()
    sample = do(asked(SYSTEM, QUESTION), models, GENERATE, CRITIQUE, REVISE)
    generate, critique, revise = (q.messages for q in models.questions)
    assert generate == [SYSTEM, QUESTION]
    assert critique == [*generate, assistant("text 1"), user(sample.critiques[0].request)]
    assert revise[:-1] == [*critique, assistant("text 2")]
    assert revise[-1]["role"] == "user"
    assert sample.candidates[1].text == "text 3"


def test_requests_carry_the_principles_instructions_in_drawn_order() -> None:
    models = numbered()
    sample = do(answered("hi"), models, CRITIQUE, REVISE)
    drawn = KIND.choose([], 2, models.seed("principle", 1))
    assert sample.critiques[0].principle_ids == [p.id for p in drawn]
    assert sample.critiques[0].request == (
        f"{drawn[0].critique} {drawn[1].critique} Give only your criticism, in a few sentences."
    )
    assert models.questions[1].messages[-1]["content"] == (
        f"{drawn[0].revision} {drawn[1].revision} "
        "Give only the new answer, with no remarks about it."
    )


def test_worked_examples_come_after_the_system_message_and_before_the_prompt() -> None:
    models = numbered()
    stages = (GENERATE, Criticize(model="policy", few_shot=1), REVISE)
    do(asked(SYSTEM, QUESTION), models, *stages)
    critique, revise = models.questions[1].messages, models.questions[2].messages
    assert [m["role"] for m in critique] == ["system", *["user", "assistant"] * 4, "user"]
    assert critique[0] == SYSTEM
    assert critique[1] == user("How do I boil an egg?")
    assert [m["content"] for m in critique[2:8:2]] == [
        "Look it up.",
        "That is rude and of no use.",
        "Put it in boiling water for eight minutes.",
    ]
    assert critique[7:9] == [QUESTION, assistant("text 1")]
    assert revise[: len(critique)] == critique


def test_without_a_system_message_worked_examples_stand_first() -> None:
    models = numbered()
    do(answered("hi"), models, Criticize(model="policy", few_shot=1))
    messages = models.questions[0].messages
    assert messages[0] == user("How do I boil an egg?")
    assert messages[6:8] == [QUESTION, assistant("hi")]


def test_rounds_link_each_revision_to_its_parent_and_critique() -> None:
    sample = asked()
    two_answers = Generate(model="policy", n=2)
    do(sample, numbered(), two_answers, CRITIQUE, REVISE, CRITIQUE, REVISE)
    assert [(c.parent, c.round, c.origin) for c in sample.candidates] == [
        (None, 0, "generate"),
        (None, 0, "generate"),
        (0, 1, "revise"),
        (1, 1, "revise"),
        (2, 2, "revise"),
        (3, 2, "revise"),
    ]
    assert [(c.candidate, c.round) for c in sample.critiques] == [(0, 1), (1, 1), (2, 2), (3, 2)]


def test_a_later_round_criticises_the_revision_as_the_answer() -> None:
    models = numbered()
    sample = do(asked(), models, GENERATE, CRITIQUE, REVISE, CRITIQUE)
    assert models.questions[-1].messages[:2] == [QUESTION, assistant("text 3")]
    assert sample.critiques[1].candidate == 1


def test_one_principle_is_drawn_a_round_for_all_candidates_of_a_sample() -> None:
    def drawn(seed: int) -> list[tuple[str, ...]]:
        models = ScriptedModels(lambda _: said("x"), KIND, seed)
        sample = asked()
        one = Criticize(model="policy")
        do(sample, models, Generate(model="policy", n=3), one, REVISE, one)
        ids = [c.principle_ids for c in sample.critiques]
        assert all(len(i) == 1 for i in ids)
        rounds = ids[:3], ids[3:]
        assert all(r.count(r[0]) == 3 for r in rounds)
        return [tuple(r[0]) for r in rounds]

    assert drawn(1) == drawn(1)
    seen = {tuple(drawn(seed)) for seed in range(30)}
    assert len(seen) == 4  # two principles in each of two rounds, all combinations


def test_where_no_principle_applies_the_answer_stays_as_it_is() -> None:
    only_safety = [{**p, "applies_when": {"tags": ["safety"]}} for p in CONSTITUTION["principles"]]
    models = numbered()
    models.constitution = Constitution.model_validate({**CONSTITUTION, "principles": only_safety})
    sample = do(asked(tags=("maths",)), models, GENERATE, CRITIQUE, REVISE)
    assert sample.critiques == []
    assert [c.text for c in sample.candidates] == ["text 1"]
    tagged = do(asked(tags=("maths", "safety")), models, GENERATE, CRITIQUE, REVISE)
    assert len(tagged.candidates) == 2


def test_dropped_candidates_are_neither_criticised_nor_revised() -> None:
    models = numbered()
    sample = do(answered("", "fine"), models, Filter(), CRITIQUE)
    assert [c.candidate for c in sample.critiques] == [1]
    sample.candidates[1].drop_reason = "mine"
    do(sample, models, REVISE)
    assert len(sample.candidates) == 2


def test_a_dropped_revision_ends_its_line() -> None:
    sample = asked()
    is_no_revision = Filter(pattern="text 3")
    do(sample, numbered(), GENERATE, CRITIQUE, REVISE, is_no_revision, CRITIQUE, REVISE)
    assert [(c.text, c.drop_reason) for c in sample.candidates] == [
        ("text 1", None),
        ("text 3", "pattern"),
    ]


def test_a_critique_is_used_once() -> None:
    sample = do(asked(), numbered(), GENERATE, CRITIQUE, REVISE, REVISE)
    assert len(sample.candidates) == 2


def test_a_users_templates_are_filled() -> None:
    fields = "{{ prompt }}|{{ answer }}|{% for p in principles %}{{ p.id }},{% endfor %}"
    models = numbered()
    stages = (
        Criticize(model="policy", template=fields, principles="all"),
        Revise(model="policy", template=fields + "|{{ critique }}"),
    )
    do(answered("{{ 7 * 7 }}"), models, *stages)
    assert [q.messages[-1]["content"] for q in models.questions] == [
        "Why is the sky blue?|{{ 7 * 7 }}|kind-words,plain-words,",
        "Why is the sky blue?|{{ 7 * 7 }}|kind-words,plain-words,|text 1",
    ]


def test_without_a_constitution_there_is_nothing_to_go_by() -> None:
    for stage in (CRITIQUE, REVISE):
        with pytest.raises(SampleError, match="needs a constitution") as caught:
            do(answered("hi"), ScriptedModels(), stage)
        assert caught.value.is_permanent


@pytest.mark.parametrize("stage", [Criticize, Revise])
@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ anwser }}", "'anwser' is undefined"),
        ("{{ answer", "unexpected end of template"),
        ("{% for p in principles %}{{ p.compre }}{% endfor %}", "compre"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ answer.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_does_not_render_is_found_without_a_model(
    stage: type[Stage], template: str, complaint: str
) -> None:
    problem = stage.model_validate({"model": "policy", "template": template}).problem()
    assert problem is not None
    field, text = problem
    assert field == "template"
    assert complaint in text
    assert "it can use: answer," in text


def test_no_principles_at_all_are_refused() -> None:
    assert Criticize(model="policy", principles=0).problem() == (
        "principles",
        "expected 1 or more, or 'all'; found 0",
    )
    assert CRITIQUE.problem() is REVISE.problem() is None


def test_a_template_cannot_change_what_it_is_given() -> None:
    prompt = [QUESTION]
    with pytest.raises(Exception, match="unsafe"):
        render("{{ prompt.append(1) }}", prompt=prompt)
    assert prompt == [QUESTION]


# Filter ----------------------------------------------------------------------------------------


def reasons(rule: Filter, *texts: str, **fields: Any) -> list[str | None]:
    sample = do(answered(*texts, **fields), ScriptedModels(), rule)
    return [c.drop_reason for c in sample.candidates]


def test_answers_with_too_few_or_too_many_words_are_dropped() -> None:
    rule = Filter(min_words=2, max_words=3)
    assert reasons(rule, "one", "one two", "one two three", "one two three four") == [
        "too-short",
        None,
        None,
        "too-long",
    ]


def test_blank_answers_are_dropped_unless_asked_not_to() -> None:
    assert reasons(Filter(), "", " \n", "x") == ["too-short", "too-short", None]
    assert reasons(Filter(min_words=0), "") == [None]


def test_truncated_answers_are_dropped_on_request() -> None:
    assert reasons(Filter(truncated=True), "x", finish_reason="length") == ["truncated"]
    assert reasons(Filter(truncated=True), "x", finish_reason="stop") == [None]
    assert reasons(Filter(), "x", finish_reason="length") == [None]


def test_answers_with_the_pattern_are_dropped() -> None:
    assert reasons(Filter(pattern=r"(?i)\bcats?\b"), "A CAT.", "category") == ["pattern", None]


def test_duplicates_but_for_case_and_spacing_are_dropped_after_the_first() -> None:
    rule = Filter(duplicates=True)
    assert reasons(rule, "The sky", "the  SKY\n", "the sea", "the sky") == [
        None,
        "duplicate",
        None,
        "duplicate",
    ]


def test_an_answer_equal_to_a_dropped_one_is_no_duplicate() -> None:
    sample = answered("same", "same")
    sample.candidates[0].drop_reason = "mine"
    do(sample, ScriptedModels(), Filter(duplicates=True))
    assert [c.drop_reason for c in sample.candidates] == ["mine", None]


def test_the_first_rule_that_applies_gives_the_reason() -> None:
    rules = {
        "min_words": 5,
        "max_words": 3,
        "truncated": True,
        "refusals": True,
        "pattern": "help",
        "duplicates": True,
    }
    given = []
    while rules:
        texts = "I cannot HELP you.", "I cannot help you."
        given.append(reasons(Filter(**rules), *texts, finish_reason="length")[1])
        del rules[next(iter(rules))]
    assert given == ["too-short", "too-long", "truncated", "refusal", "pattern", "duplicate"]


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m really sorry you feel this way, but I’m not able to give the help that you need.",
    "Sorry, I can't do that.",
    "I apologize, but I cannot fulfill this request.",
    "I'm afraid I can't do that, Dave.",
    "I cannot in good conscience help you do this.",
    "I CAN'T ASSIST WITH THAT.",
    "Unfortunately, I am unable to comply with your request.",
    "I won't provide instructions for that.",
    "I must respectfully decline to answer.",
    "As an AI language model, I cannot give medical advice.",
    "As an AI, I don't have access to today's news.",
]
ANSWERS = [
    "I can't wait to help you plan the party!",
    "I'm sorry for your loss. Here is a letter you could send.",
    "I'm sorry you are unwell. You can't go wrong with rest and water.",
    "I'm sorry to hear that you can't sleep. Try this.",
    "I can't help but admire how the poem ends.",
    "I can't stress enough how much a checklist helps.",
    "You cannot mix bleach and ammonia: the gas is poisonous.",
    "As an AI researcher, you could start with a small data set.",
    "As an AI language model, I can tell you that it is Paris.",
    "Dear Ann, I'm sorry, but I can't come on Friday.",
    "If you can't answer, say that you will ask and call back.",
    "The shop cannot provide refunds after thirty days.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_dropped(text: str) -> None:
    assert reasons(Filter(refusals=True), text) == ["refusal"]


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_that_only_sound_like_refusals_are_kept(text: str) -> None:
    assert reasons(Filter(refusals=True), text) == [None]


def test_only_how_an_answer_begins_can_make_it_a_refusal() -> None:
    assert reasons(Filter(refusals=True), "Blue light scatters. " * 20 + REFUSALS[0]) == [None]


def test_dropped_candidates_stay_in_the_sample() -> None:
    sample = do(answered("", "fine"), ScriptedModels(), Filter())
    assert [c.text for c in sample.candidates] == ["", "fine"]
    assert [c.index for c in sample.kept()] == [1]


def test_a_filters_problems_are_found_without_a_model() -> None:
    assert Filter().problem() is None
    field, text = Filter(pattern="(").problem() or ("", "")
    assert field == "pattern"
    assert "is not a regular expression" in text
    assert Filter(min_words=5, max_words=4).problem() == (
        "max_words",
        "expected at least min_words (5)",
    )


# Seeds -----------------------------------------------------------------------------------------


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    # blake2b of b"7\x1fp0\x1fgenerate\x1f0", 4 bytes: 926d5507; without its last bit:
    assert derive_seed(7, "p0", "generate", 0) == 1228319363


def test_what_makes_a_seed_cannot_run_together() -> None:
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_seeds_fit_31_bits() -> None:
    assert all(0 <= derive_seed(i) < 2**31 for i in range(1000))
    assert max(derive_seed(i) for i in range(1000)) > 2**30
