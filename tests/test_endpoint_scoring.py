"""Scoring through an endpoint: the ids sent are those that training saw, and the scores are read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import ContextOverflow, EngineError, SampleError
from factory.core.records import Message
from factory.engines.base import Completion, Request, Scoring, TextScoring
from factory.engines.render import conversation_ids, step_ids
from tests import servers
from tests.servers import FakeServer, Reply, failure, pooled
from tests.test_endpoint import VLLM_CARD, Sleeps, ask, config, error_of
from tests.tiny import save_llama, sentencepiece_tokenizer

QUESTION: list[Message] = [{"role": "user", "content": "What is 2 + 3 * 4?"}]
ANSWERED: list[Message] = [*QUESTION, {"role": "assistant", "content": "It is 14."}]
STEPS = ("3 * 4 = 12", "2 + 12 = 14", "The answer is 15.")
ON_LINES = Scoring(STEPS)


def scored(messages: list[Message], scoring: Scoring) -> Request:
    return Request(messages=messages, sampling={}, draw=0, scoring=scoring)


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture
def pooling_server(tokenizer: Any) -> Callable[..., FakeServer]:
    """Makes a server with the embedded model's tokenizer, that answers as told."""

    def tokenize(body: dict[str, Any]) -> list[int]:
        if "messages" in body:
            ids: list[int] = tokenizer.apply_chat_template(
                body["messages"],
                add_generation_prompt=body["add_generation_prompt"],
                return_dict=False,
                **body["chat_template_kwargs"],
            )
            return ids
        special = body.get("add_special_tokens", True)
        return list(tokenizer.encode(body["prompt"], add_special_tokens=special))

    def made(*replies: Reply, **options: Any) -> FakeServer:
        options = {"models": [VLLM_CARD], "tokenize": tokenize, "context": 512, **options}
        return FakeServer(*replies, **options)

    return made


PoolingServer = Callable[..., FakeServer]


def test_a_conversation_is_sent_as_its_ids_and_scored_once(
    pooling_server: PoolingServer, tokenizer: Any
) -> None:
    with pooling_server(pooled([0.25, -1.5], prompt_tokens=99)) as server:
        [answer] = ask(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert server.paths == ["/pooling"]
    assert server.calls == [
        {
            "model": "smol",
            "input": conversation_ids(tokenizer, ANSWERED, {}),
            "add_special_tokens": False,
            "task": "classify",
            "use_activation": False,
            "encoding_format": "float",
        }
    ]
    assert answer == Completion("", "stop", 99, 0, 0, scores=[[0.25, -1.5]])


@pytest.mark.parametrize(
    "scoring",
    [
        ON_LINES,
        Scoring(STEPS, separator="\n\n"),
        Scoring(STEPS, tag="<|im_start|>"),
        Scoring(STEPS, separator="", tag="<|im_start|>"),
        Scoring((STEPS[0], STEPS[0])),
    ],
)
def test_steps_are_laid_out_as_in_process_and_read_at_their_ends(
    pooling_server: PoolingServer, tokenizer: Any, scoring: Scoring
) -> None:
    ids, positions = step_ids(tokenizer, QUESTION, scoring, {})
    rows = [[float(i), -float(i)] for i in range(len(ids))]
    with pooling_server(pooled(rows)) as server:
        [answer] = ask(config(server.url, task="token_classify"), scored(QUESTION, scoring))
    [call] = server.calls
    assert call["input"] == ids
    assert call["task"] == "token_classify"
    assert answer.scores == [[float(p), -float(p)] for p in positions]
    assert answer.prompt_tokens == len(ids)  # the server did not say


def test_steps_as_one_text_are_laid_out_as_in_process(tmp_path: Path) -> None:
    tokenizer = sentencepiece_tokenizer(tmp_path)
    scoring = TextScoring(STEPS, "\n", "ки")
    ids, positions = step_ids(tokenizer, QUESTION, scoring, {})
    assert ids[0] == tokenizer.bos_token_id

    def tokenize(body: dict[str, Any]) -> list[int]:
        special = body.get("add_special_tokens", True)
        return list(tokenizer.encode(body["prompt"], add_special_tokens=special))

    rows = [[float(i), -float(i)] for i in range(len(ids))]
    with FakeServer(pooled(rows), models=[VLLM_CARD], tokenize=tokenize, context=512) as server:
        [answer] = ask(config(server.url, task="token_classify"), scored(QUESTION, scoring))
    [call] = server.calls
    assert call["input"] == ids
    assert answer.scores == [[float(p), -float(p)] for p in positions]


def test_chat_template_arguments_reach_the_tokenizer(
    pooling_server: PoolingServer, tokenizer: Any
) -> None:
    shout = {"chat_template": "{% for m in messages %}{{ m.content | upper }}{% endfor %}"}
    asked = config("http://x/v1", task="classify", chat_template_kwargs=shout)
    with pooling_server(pooled([1.0])) as server:
        ask(asked.model_copy(update={"base_url": server.url}), scored(ANSWERED, Scoring()))
    [call] = server.calls
    assert tokenizer.decode(call["input"]) == "WHAT IS 2 + 3 * 4?IT IS 14."


@pytest.mark.parametrize("value", [None, math.nan])
def test_scores_that_are_no_numbers_are_passed_on_as_nan(
    pooling_server: PoolingServer, value: float | None
) -> None:
    with pooling_server(pooled([value, 1.0])) as server:
        [answer] = ask(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert answer.scores is not None
    [[first, second]] = answer.scores
    assert math.isnan(first)
    assert second == 1.0


def test_infinite_scores_are_passed_on(pooling_server: PoolingServer) -> None:
    with pooling_server(pooled([-math.inf])) as server:
        [answer] = ask(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert answer.scores == [[-math.inf]]


def test_a_wrong_number_of_rows_is_an_error_with_both_numbers(
    pooling_server: PoolingServer, tokenizer: Any
) -> None:
    ids, _ = step_ids(tokenizer, QUESTION, ON_LINES, {})
    with pooling_server(pooled([[0.0, 1.0]] * 3)) as server:
        error = error_of(config(server.url, task="token_classify"), scored(QUESTION, ON_LINES))
    assert isinstance(error, EngineError)
    assert f"3 rows of scores for {len(ids)} tokens, and {len(ids)} should be" in str(error)
    with pooling_server(pooled([[0.0], [1.0]])) as server:
        error = error_of(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert isinstance(error, EngineError)
    assert "2 rows" in str(error)
    assert "and 1 should be" in str(error)


@pytest.mark.parametrize("data", [[], [{"x": 1}], ["1.5, 2"]])
def test_an_answer_without_scores_costs_the_sample(
    pooling_server: PoolingServer, data: list[Any]
) -> None:
    with pooling_server(pooled(data)) as server:
        error = error_of(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert isinstance(error, SampleError)
    assert "without scores: {'object': 'list'" in str(error)


def test_a_tag_of_several_tokens_is_an_error(pooling_server: PoolingServer) -> None:
    tagged = Scoring(STEPS, tag="not one token")
    with pooling_server() as server:
        error = error_of(config(server.url, task="token_classify"), scored(QUESTION, tagged))
    assert isinstance(error, EngineError)
    assert "'not one token' is 3 tokens" in str(error)
    assert server.calls == []


def test_a_blank_step_costs_the_sample(pooling_server: PoolingServer) -> None:
    with pooling_server() as server:
        error = error_of(
            config(server.url, task="token_classify"), scored(QUESTION, Scoring(("2 = 2", " ")))
        )
    assert isinstance(error, SampleError)
    assert "blank" in str(error)


def test_what_does_not_fit_the_context_is_not_sent(
    pooling_server: PoolingServer, tokenizer: Any
) -> None:
    count = len(conversation_ids(tokenizer, ANSWERED, {}))
    asked = scored(ANSWERED, Scoring())
    with pooling_server(pooled([1.0]), context=count) as server:
        ask(config(server.url, task="classify"), asked)
    with pooling_server(context=count - 1) as server:
        error = error_of(config(server.url, task="classify"), asked)
    assert isinstance(error, ContextOverflow)
    assert f"prompt of {count} tokens" in str(error)
    assert f"context of {count - 1} tokens" in str(error)
    assert server.calls == []


def test_a_failure_that_may_pass_is_tried_again(pooling_server: PoolingServer) -> None:
    sleeps = Sleeps()
    with pooling_server(failure(503, retry_after="7"), pooled([0.5])) as server:
        [answer] = ask(
            config(server.url, task="classify"), scored(ANSWERED, Scoring()), sleep=sleeps
        )
    assert answer.scores == [[0.5]]
    assert len(sleeps) == 1
    assert sleeps[0] >= 7


# -- servers that cannot ------------------------------------------------------------------------


@pytest.mark.parametrize("models", [None, [{"id": "smol", "owned_by": "somebody"}]])
def test_a_server_that_is_not_vllm_cannot_score(models: list[dict[str, str]] | None) -> None:
    with FakeServer(models=models) as server:
        error = error_of(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert isinstance(error, EngineError)
    assert "is not a vLLM server" in str(error)
    assert "needs a vLLM server with `--runner pooling`" in str(error)
    assert server.calls == []


def test_an_unknown_model_is_named_first() -> None:
    with FakeServer(models=[{"id": "llama", "owned_by": "somebody"}]) as server:
        error = error_of(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert isinstance(error, EngineError)
    assert "no model 'smol' (have: llama)" in str(error)


@pytest.mark.parametrize(
    "reply",
    [
        failure(404, "Not Found"),
        failure(501, "The model does not support Pooling API"),
        failure(400)._replace(
            body={"error": {"message": "Unsupported task: 'classify'", "param": "task"}}
        ),
    ],
)
def test_a_vllm_server_that_serves_another_task_says_how_to_serve_it(
    pooling_server: PoolingServer, reply: Reply
) -> None:
    with pooling_server(reply) as server:
        error = error_of(config(server.url, task="classify"), scored(ANSWERED, Scoring()))
    assert isinstance(error, EngineError)
    said = reply.body["error"]["message"]
    assert f"cannot classify (HTTP {reply.status}: {said})" in str(error)
    assert "--runner pooling" in str(error)
    assert "--pooler-config.task classify" in str(error)
    assert len(server.calls) == 1


def test_a_scoring_server_asked_to_write_is_not_said_to_lack_the_model() -> None:
    asked = Request(QUESTION, {"temperature": 1.0, "max_tokens": 4}, draw=1)
    with FakeServer(failure(404, "Not Found"), models=[VLLM_CARD]) as server:
        error = error_of(config(server.url), asked)
    assert isinstance(error, EngineError)
    assert "has the model 'smol' but cannot generate with it (HTTP 404: Not Found)" in str(error)


@pytest.mark.parametrize(
    ("task", "scoring", "wanted"),
    [
        ("generate", Scoring(), "classify"),
        ("classify", ON_LINES, "token_classify"),
        ("token_classify", None, "generate"),
    ],
)
def test_a_request_of_another_task_is_refused(
    task: str, scoring: Scoring | None, wanted: str
) -> None:
    asked = Request(QUESTION, {"temperature": 1.0, "max_tokens": 4}, draw=1, scoring=scoring)
    with FakeServer() as server:
        error = error_of(config(server.url, task=task), asked)
    assert isinstance(error, EngineError)
    assert f"set task: {wanted} in" in str(error)
    assert server.calls == []


# -- a real vLLM server -------------------------------------------------------------------------


SERVED = {
    "classify": ("LlamaForSequenceClassification", 1),
    "token_classify": ("LlamaForTokenClassification", 2),
}


@pytest.fixture(scope="module")
def served(
    tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Path, Callable[[], str]]]]:
    """A model of each task and what waits for its server; they start side by side."""
    made = {}
    arguments = ["--runner", "pooling", "--max-model-len", "256"]
    with contextlib.ExitStack() as running:
        for task, (kind, labels) in SERVED.items():
            changes = {"hidden_size": 64, "num_labels": labels, "tie_word_embeddings": False}
            folder = tmp_path_factory.mktemp(task)
            save_llama(folder, tokenizer, kind, initializer_range=0.2, **changes)
            server = servers.vllm_server(str(folder), *arguments)
            made[task] = (folder, running.enter_context(server))
        yield made


@pytest.mark.engine
@pytest.mark.parametrize("task", list(SERVED))
def test_scores_of_a_real_server_are_those_of_transformers(
    served: dict[str, tuple[Path, Callable[[], str]]], tokenizer: Any, task: str
) -> None:
    import torch
    import transformers

    folder, ready = served[task]
    model = getattr(transformers, SERVED[task][0]).from_pretrained(folder).eval()
    tagged = Scoring(STEPS, separator="\n\n", tag="<|im_start|>")
    expected = []
    if task == "classify":
        again: list[Message] = [*QUESTION, {"role": "assistant", "content": "I do not know."}]
        asked = [scored(messages, Scoring()) for messages in (ANSWERED, again, ANSWERED)]
        with torch.no_grad():
            for request in asked:
                ids = conversation_ids(tokenizer, request.messages, {})
                expected.append(model(torch.tensor([ids])).logits)
    else:
        text = TextScoring(STEPS, "\n", "yes")
        layouts = (ON_LINES, tagged, text)
        asked = [scored(QUESTION, scoring) for scoring in layouts]
        with torch.no_grad():
            for scoring in layouts:
                ids, positions = step_ids(tokenizer, QUESTION, scoring, {})
                expected.append(model(torch.tensor([ids])).logits[0, positions])
    other = "token_classify" if task == "classify" else "classify"
    wrong = scored(QUESTION, ON_LINES if other == "token_classify" else Scoring())
    url = ready()
    answers = ask(config(url, task=task), *asked)
    refused = error_of(config(url, task=other), wrong)
    does_not_write = error_of(
        config(url), Request(QUESTION, {"temperature": 1.0, "max_tokens": 4}, draw=1)
    )
    for answer, wanted in zip(answers, expected, strict=True):
        got = torch.tensor(answer.scores)
        assert got.shape == wanted.shape
        assert float((got - wanted).abs().max()) < 1e-4
    assert answers[0].scores != answers[1].scores
    assert answers[0].prompt_tokens > 20
    assert f"cannot {other}" in str(refused)
    assert "cannot generate with it" in str(does_not_write)
