"""Requests to any OpenAI-compatible server, and the reading of its answers.

The functions raise the errors of the `openai` client, and `SampleError` for an answer that is no
completion, with the server, the field and its value. Invalid token counts become 0: they are only
statistics.

A server that is not vLLM gets only the fields that the recipe sets. A prefix needs a server that can
continue the last message. For a label call, a server shows at most the 20 likeliest tokens. If only
some labels are among them, the others get the smallest log-probability shown, an upper bound, so a
confident judge's P is at worst understated. If no label is shown, none gets a log-probability.

A thought is read from a field of the message (`reasoning_content` or `reasoning`), from parts of it
(`reasoning_details`, content in parts), or else from the text, if that begins with the model's marks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from factory.core.errors import SampleError
from factory.engines.base import Completion, Request, Sampling, ended
from factory.engines.endpoint_config import EndpointConfig
from factory.engines.http import post
from factory.engines.reasoning import CLOSE, Said, Where, cut, marks_before
from factory.engines.routing import Server

TOP_LOGPROBS = 20  # the most that the OpenAI API gives
_LEAST = -9999.0  # that API's log-probability of an impossible token; JSON has no -inf
_LEAST_REST = 1e-9  # least probability of all tokens not shown, despite rounding
_NOISE = 0.01  # a log-probability of at most this is taken for 0
_LARGEST_COUNT = 2**31 - 1


async def complete(server: Server, config: EndpointConfig, request: Request) -> Completion:
    messages: list[Any] = list(request.messages)
    body: dict[str, Any] = {"model": config.model, "messages": messages}
    where: Where = "answer" if request.prefix else server.where
    fields, stops = sampling_fields(server, request, where)
    body |= fields
    if request.prefix:
        messages.append({"role": "assistant", "content": request.prefix})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.labels:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if config.chat_template_kwargs:
        body["chat_template_kwargs"] = config.chat_template_kwargs
    answer = await post(server, "/chat/completions", body)
    choice = only_choice(server, answer)
    if request.labels:
        return read(server, answer, choice, "", _labels(server, choice, request.labels))
    message = choice.get("message")
    if not isinstance(message, dict):
        raise odd(server, "message", message, "a message")
    content = message.get("content") or ""
    completion = read(server, answer, choice, _joined(content, "text"))
    thought = _thought(message)
    if thought is not None:
        server.splits = True
    return split(server, request, choice, completion, where, stops, thought, server.splits)


def sampling_fields(
    server: Server, request: Request, where: Where
) -> tuple[dict[str, Any], list[str]]:
    """The sampling fields of a call that begins at `where`, and the stop strings that end only an
    answer. An `extra` of null removes a field."""
    # vLLM takes omitted fields from the model's generation_config.json.
    body = Sampling().model_dump() if server.is_vllm else {}
    body |= {"max_tokens": 1, "temperature": 0.0} if request.labels else request.sampling
    stops: list[str] = []
    extra = body.pop("extra", {})
    if server.marks is not None and where != "answer" and not request.labels:
        if body.get("stop"):
            body["stop"], stops = server.marks.stops(body["stop"], where)
        extra = {"skip_special_tokens": False, **extra}  # the marks may be special tokens
    body |= {"seed": request.seed, **extra}  # no seed: none is sent
    return {name: value for name, value in body.items() if value is not None}, stops


def _thought(message: Mapping[str, Any]) -> str | None:
    """The model's thought as the server reports it. None: none."""
    said = [message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details")]
    found = [_joined(value, "text") or _joined(value, "summary") for value in said]
    if isinstance(content := message.get("content"), list):
        found.append(_joined(content, "thinking"))
    return next((text for text in found if isinstance(text, str) and text.strip()), None)


def _joined(value: object, kind: str) -> object:
    """The texts of one kind in a list of parts, joined. Any other value is returned unchanged."""
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        return value
    inner = [_joined(part.get(kind), "text") for part in value]  # Mistral's thoughts have parts too
    return "".join(text for text in inner if isinstance(text, str))


def split(
    server: Server,
    request: Request,
    choice: Mapping[str, Any],
    completion: Completion,
    where: Where,
    stops: list[str],
    thought: str | None = None,
    is_split: bool = False,
) -> Completion:
    """The completion with its thought split off. `is_split`: the server has done it, and gave `thought`."""
    text, reason, marks = completion.text, completion.finish_reason, server.marks
    stops_at_thought = reason == "stop" and CLOSE in request.sampling.get("stop", [])
    if thought is not None:
        is_over = bool(text.strip()) or stops_at_thought
        said = Said(thought.strip(), text.lstrip() if is_over else None)
    elif is_split or where == "answer":
        said = Said(None, text)
    elif marks is not None:
        if stops_at_thought and choice.get("stop_reason") == marks.close:
            text += marks.close
        said = marks.split(text, where)
    else:
        known = marks_before(text, reason)
        if known is None:
            return completion
        said = known.split(text, "either")
    said, reason = cut(said, reason, stops)
    completion.text, completion.finish_reason = said.finished(reason)
    completion.reasoning = said.reasoning
    if said.answer is None and not completion.reasoning_tokens:
        completion.reasoning_tokens = completion.output_tokens
    return completion


def odd(server: Server, field: str, value: object, wanted: str) -> SampleError:
    return SampleError(
        f"{server.url} answered with {field} {server.clean(repr(value))} instead of {wanted}; "
        "fix the server, or name another: the next run asks again"
    )


def only_choice(server: Server, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The completion in an answer.

    Raises `SampleError` if there is none, or if its finish reason is not that of a finished answer.
    """
    choices = answer.get("choices")
    if not choices:
        raise SampleError(
            f"{server.url} answered without a completion: {server.clean(str(answer))}"
        )
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise odd(server, "choices", choices, "a list of completions")
    choice: dict[str, Any] = choices[0]
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise SampleError(f"{server.url} filtered the answer out", is_permanent=True)
    if reason in ("tool_calls", "function_call"):
        raise SampleError(
            f"{server.url} called a tool instead of answering (finish_reason {reason}); take the "
            "tools out of the recipe's `extra`, or serve the model without: the next run asks again"
        )
    if ended(reason) is None:
        said = choice.get("error") or answer.get("error")
        raise SampleError(
            f"{server.url} did not end its answer: finish_reason {server.clean(repr(reason))}"
            + (f", {server.clean(str(said))}" if said else "")
            + "; the next run asks again"
        )
    return choice


def read(
    server: Server,
    answer: Mapping[str, Any],
    choice: Mapping[str, Any],
    text: object,
    label_logprobs: dict[str, float] | None = None,
) -> Completion:
    if not isinstance(text, str):
        raise odd(server, "the content", text, "text")
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    written = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    if server.is_vllm and isinstance(written, dict):
        server.splits = True  # vLLM counts them if it has a parser for the model's thoughts
    return Completion(
        text=text,
        finish_reason=ended(choice.get("finish_reason")) or "",
        prompt_tokens=count(usage, "prompt_tokens"),
        cached_tokens=count(details, "cached_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        label_logprobs=label_logprobs,
        reasoning_tokens=min(count(written, "reasoning_tokens"), count(usage, "completion_tokens")),
    )


def count(usage: object, field: str) -> int:
    """A number of tokens that a server reports. 0: it reports none, or an invalid one."""
    value = usage.get(field) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value <= _LARGEST_COUNT else 0


# -- labels ------------------------------------------------------------------------------------


def _labels(
    server: Server, choice: Mapping[str, Any], labels: tuple[str, ...]
) -> dict[str, float] | None:
    """The log-probability of each label. Empty: no label is shown. None: the server shows no tokens.

    If the answer's own token is a label with white space before it (" A"), this model writes labels
    so, and the forms of a label are added up.
    """
    first = _first_token(server, choice)
    if first is None:
        return None
    tops = first.get("top_logprobs")
    if not isinstance(tops, list | None):
        raise odd(server, "top_logprobs", tops, "a list")
    shown: dict[str, float] = {}
    # The answer's own token may be missing there, or have no list of likeliest tokens.
    own = [] if first.get("logprob") is None else [first]
    for top in [*(tops or ()), *own]:
        if not isinstance(top, dict) or not isinstance(top.get("token"), str):
            raise odd(server, "top_logprobs", top, "a token and its log-probability")
        shown.setdefault(top["token"], logprob(server, top["token"], top.get("logprob")))
    token = first.get("token")
    if isinstance(token, str) and token not in labels and token.strip() in labels:
        forms = {
            label: [value for form, value in shown.items() if form.strip() == label]
            for label in labels
        }
        found = {label: _log_sum(values) for label, values in forms.items() if values}
    else:
        found = {label: shown[label] for label in labels if label in shown}
    return bounded(labels, found, shown.values())


def _first_token(server: Server, choice: Mapping[str, Any]) -> dict[str, Any] | None:
    logprobs = choice.get("logprobs")
    if logprobs is None:
        return None
    if not isinstance(logprobs, dict):
        raise odd(server, "logprobs", logprobs, "a mapping")
    tokens = logprobs.get("content")
    if not tokens:
        return None
    if not isinstance(tokens, list) or not isinstance(tokens[0], dict):
        raise odd(server, "logprobs.content", tokens, "a list of tokens")
    first: dict[str, Any] = tokens[0]
    return first


def logprob(server: Server, token: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _NOISE:
        raise odd(server, f"for token {token!r} the logprob", value, "a number of 0 or less")
    return float(max(value, _LEAST))


def bounded(labels: tuple[str, ...], found: dict[str, float], shown: Any) -> dict[str, float]:
    """The labels' log-probabilities; labels not shown get their upper bound. `shown`: all shown tokens."""
    if not found or len(found) == len(labels):
        return found
    least = min(shown)
    if least >= min(found.values()):  # no less likely token is shown: the rest is the bound
        rest = 1.0 - sum(math.exp(min(value, 0.0)) for value in shown)
        least = min(least, math.log(max(rest, _LEAST_REST)))
    return {label: found.get(label, least) for label in labels}


def _log_sum(values: list[float]) -> float:
    return min(0.0, math.log(max(sum(map(math.exp, values)), math.exp(-700.0))))
