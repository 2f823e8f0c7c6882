from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from factory.core.errors import EngineError, SampleError
from factory.core.records import Candidate, Message, Sample, Score, StepLabels
from factory.engines.base import Completion, Request, Scoring, TextScoring
from factory.engines.call_key import call_key
from factory.engines.render import step_ids
from factory.scorers.process_reward import ProcessReward, aggregated, correct
from tests.fakes import ScriptedModels
from tests.tiny import sentencepiece_tokenizer

LN3 = math.log(3)  # against 0: 3/4


def logits(*rows: list[float]) -> Completion:
    return Completion("", "stop", 10, 0, 0, scores=list(rows))


def sample_of(*texts: str) -> Sample:
    candidates = [Candidate(i, text, "generate", "m", "c") for i, text in enumerate(texts)]
    return Sample("s", 0, [{"role": "user", "content": "1 + 1?"}], candidates=candidates)


def scored(sample: Sample, *completions: Completion, **options: Any) -> ScriptedModels:
    models = ScriptedModels(completions)
    asyncio.run(ProcessReward(model="prm", **options)(sample, models))
    return models


# From logits to P(correct) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "good", "neutral_is_good", "p"),
    [
        ([0.0, LN3], "last", True, 0.75),
        ([0.0, LN3], "last", False, 0.75),  # two columns have no neutral one
        ([0.0, LN3], "first", True, 0.25),
        ([LN3], "last", True, 0.75),
        ([LN3], "first", False, 0.75),  # one column has no order
        ([0.0, LN3, math.log(4)], "last", True, 7 / 8),  # weights 1, 3, 4
        ([0.0, LN3, math.log(4)], "last", False, 0.5),
        ([0.0, LN3, math.log(4)], "first", True, 0.5),  # 4, 3, 1: (3 + 1) / 8
        ([0.0, LN3, math.log(4)], "first", False, 1 / 8),
        ([1000.0, 1000.0], "last", True, 0.5),
        ([-1000.0], "last", True, 0.0),
    ],
)
def test_p_correct_is_the_softmax_over_the_good_columns(
    row: list[float], good: Any, neutral_is_good: bool, p: float
) -> None:
    assert correct(row, good=good, neutral_is_good=neutral_is_good) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(
    ("how", "value"), [("product", 0.24), ("minimum", 0.5), ("last", 0.6), ("mean", 0.633333)]
)
def test_a_solutions_score_is_an_aggregate_of_its_steps(how: Any, value: float) -> None:
    assert aggregated([0.8, 0.5, 0.6], how) == value


def test_products_of_many_steps_still_rank() -> None:
    assert 0 < aggregated([0.1] * 20, "product") < aggregated([0.2] * 20, "product") < 1e-6


# The stage -------------------------------------------------------------------------------------


def test_steps_are_labeled_and_the_solution_scored() -> None:
    sample = sample_of("1 + 1 = 2\nso 3")
    scored(sample, logits([0.0, LN3], [LN3, 0.0]))
    assert sample.step_labels == [
        StepLabels("process", 0, ["1 + 1 = 2", "so 3"], [0.75, 0.25], [True, False], ["call1"])
    ]
    assert sample.scores == [Score("process", 0, 0.1875, "", ["call1"])]


def test_a_step_at_one_half_is_neither_right_nor_wrong() -> None:
    sample = sample_of("a\nb\nc")
    scored(sample, logits([2.0, 2.0], [2.0, 2.0 + 1e-9], [2.0, 2.1]))
    assert sample.step_labels[0].labels == [None, None, True]
    assert sample.step_labels[0].scores[:2] == [0.5, 0.5]


def test_options_reach_the_arithmetic() -> None:
    sample = sample_of("a\nb")
    options: Any = {"good": "first", "neutral_is_good": False, "aggregate": "last", "name": "prm"}
    scored(sample, logits([0.0, LN3, math.log(4)], [math.log(4), LN3, 0.0]), **options)
    assert sample.step_labels[0].scores == [0.125, 0.5]
    assert sample.step_labels[0].labels == [False, None]
    assert sample.scores == [Score("prm", 0, 0.5, "", ["call1"])]


def test_one_question_a_solution_in_the_models_own_layout() -> None:
    sample = sample_of("a\n\nb\nc", "d")
    models = scored(
        sample,
        logits([1.0], [1.0]),
        logits([1.0]),
        split="blank_line",
        separator="",
        tag="<extra_0>",
    )
    one, two = models.questions
    assert one.scoring == Scoring(("a", "b\nc"), "", "<extra_0>")
    assert two.scoring == Scoring(("d",), "", "<extra_0>")
    assert one.messages == sample.prompt


def test_dropped_candidates_are_not_asked_and_scores_belong_to_their_own() -> None:
    sample = sample_of("a", "b", "c")
    sample.candidates[1].drop_reason = "refusal"
    scored(sample, logits([0.0]), logits([LN3]))
    assert [(s.candidate, s.value, s.calls) for s in sample.scores] == [
        (0, 0.5, ["call1"]),
        (2, 0.75, ["call2"]),
    ]


def test_a_blank_solution_has_no_score_and_never_zero() -> None:
    sample = sample_of(" \n", "b")
    scored(sample, logits([LN3]))
    assert sample.scores == [Score("process", 1, 0.75, "", ["call1"])]
    assert [labels.candidate for labels in sample.step_labels] == [1]


# What goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("aggregate", ["product", "minimum", "last", "mean"])
def test_a_logit_that_is_not_finite_is_a_step_unread_and_a_solution_unscored(
    bad: float, aggregate: Any
) -> None:
    sample = sample_of("a", "x\ny\nz")
    scored(sample, logits([LN3]), logits([LN3], [bad], [LN3]), aggregate=aggregate)
    assert [labels.scores for labels in sample.step_labels] == [[0.75], [0.75, None, 0.75]]
    assert sample.step_labels[1].labels == [True, None, True]
    assert sample.scores == [
        Score("process", 0, 0.75, "", ["call1"]),
        Score("process", 1, None, "not finite", ["call2"]),
    ]


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        (logits([1.0, 2.0, 3.0, 4.0]), r"'prm' has 4 labels a step; .* has 2 \(wrong, right\)"),
        (logits([]), "'prm' has 0 labels"),
        (logits([1.0], [2.0]), "outputs for 2 steps where 1 were asked"),
        (Completion("2", "stop", 1, 0, 1), "outputs for 0 steps"),
    ],
)
def test_a_model_that_is_no_process_reward_model_stops_the_run(
    completion: Completion, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        scored(sample_of("a"), completion)


# As one text -----------------------------------------------------------------------------------


STEPS = ("1 + 2 = 3.", "3 - 2 = 1. The answer is: 1")


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sentencepiece_tokenizer(tmp_path_factory.mktemp("sentencepiece"))


def test_a_text_is_read_at_its_tags_as_the_model_card_reads_it(sentencepiece: Any) -> None:
    # https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm
    question = "1 + 2 - 2?"
    tag_id = sentencepiece.encode("ки")[-1]
    expected = sentencepiece.encode(f"{question} {STEPS[0]} ки\n{STEPS[1]} ки")
    asked: list[Message] = [{"role": "user", "content": question}]
    ids, positions = step_ids(sentencepiece, asked, TextScoring(STEPS, "\n", "ки"), {})
    assert ids == expected
    assert positions == [i for i, token in enumerate(expected) if token == tag_id]
    assert len(positions) == 2
    # Tokenised apart, the same text is another: what stands first in a text has a space before it.
    apart, _ = step_ids(sentencepiece, asked, Scoring(STEPS, "\n", "ки"), {})
    assert apart != expected


@pytest.mark.parametrize(
    ("question", "steps"), [("1?", ("1 ки", "2")), ("ки?", STEPS), ("1?", ("1", "so ки is"))]
)
def test_a_text_that_holds_the_tag_itself_is_not_scored(
    sentencepiece: Any, question: str, steps: tuple[str, ...]
) -> None:
    asked: list[Message] = [{"role": "user", "content": question}]
    with pytest.raises(SampleError, match="'ки' occurs 3 times in a text of 2 steps") as failed:
        step_ids(sentencepiece, asked, TextScoring(steps, "\n", "ки"), {})
    assert failed.value.is_permanent


def test_a_tag_that_is_no_token_of_the_model_stops_the_run(sentencepiece: Any) -> None:
    asked: list[Message] = [{"role": "user", "content": "1?"}]
    with pytest.raises(EngineError, match="is another token, or several, after a step"):
        step_ids(sentencepiece, asked, TextScoring(STEPS, "\n", "☃"), {})


def test_the_stage_asks_for_the_layout_of_its_model() -> None:
    sample = sample_of("a\nb")
    models = scored(sample, logits([LN3, 0.0], [0.0, LN3]), layout="text", tag="ки", good="first")
    assert models.questions[0].scoring == TextScoring(("a", "b"), "\n", "ки")
    assert sample.step_labels[0].scores == [0.75, 0.25]
    problem = ProcessReward(model="prm", layout="text").problem()
    assert problem is not None
    assert problem[0] == "tag"


def test_calls_of_the_chat_layout_have_the_keys_that_they_had() -> None:
    def request(scoring: Scoring) -> Request:
        return Request(
            messages=[{"role": "user", "content": "1 + 1?"}], sampling={}, draw=0, scoring=scoring
        )

    keys = {call_key("m", request(kind(("a",)))).hex() for kind in (Scoring, TextScoring)}
    assert len(keys) == 2
    assert "5416f7c2014e8aec064efc188c147c73" in keys


def test_steps_must_be_read_somewhere() -> None:
    problem = ProcessReward(model="prm", separator="").problem()
    assert problem is not None
    assert problem[0] == "separator"
    assert ProcessReward(model="prm", separator="", tag="<s>").problem() is None
    assert ProcessReward(model="prm").problem() is None


def test_what_it_makes_and_what_its_model_is_served_for() -> None:
    stage = ProcessReward(model="prm", name="mine")
    assert stage.facts_made() == {"score:mine", "steps:mine", "ranking"}
    assert stage.task() == "token_classify"
    assert stage.models_used() == {"model": "prm"}
