"""What any OpenAI-compatible server is asked, and how its answers are read.

These raise the errors of the `openai` client, and `SampleError` for an answer without a completion.
A server that is not vLLM gets only what the recipe sets. A prefix needs a server that can continue
the last message; a label that is not among the 20 likeliest tokens has no log-probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factory.engines.base import Completion, Request, Sampling
from factory.engines.routing import Server
from factory.errors import SampleError

if TYPE_CHECKING:
    from factory.engines.endpoint import EndpointConfig

TOP_LOGPROBS = 20  # the most that the OpenAI API gives


async def complete(server: Server, config: EndpointConfig, request: Request) -> Completion:
    body = sampling_fields(server, request)
    messages: list[Any] = list(request.messages)
    if request.prefix:
        messages.append({"role": "assistant", "content": request.prefix})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.labels:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if config.chat_template_kwargs:
        body["chat_template_kwargs"] = config.chat_template_kwargs
    response = await server.client.chat.completions.create(
        model=config.model, messages=messages, extra_body=body
    )
    choice = only_choice(server, response)
    if not request.labels:
        return read(response, choice, choice.message.content or "")
    tokens = choice.logprobs.content if choice.logprobs else None
    shown = {top.token: top.logprob for top in tokens[0].top_logprobs} if tokens else {}
    found = {label: shown[label] for label in request.labels if label in shown}
    return read(response, choice, "", found)


def sampling_fields(server: Server, request: Request) -> dict[str, Any]:
    """The sampling fields of a call. An `extra` of null takes a field out."""
    # What a call leaves out, vLLM takes from the model's generation_config.json.
    body = Sampling().model_dump() if server.is_vllm else {}
    body |= {"max_tokens": 1, "temperature": 0.0} if request.labels else request.sampling
    body |= {"seed": request.seed, **body.pop("extra", {})}
    return {name: value for name, value in body.items() if value is not None}


def only_choice(server: Server, response: Any) -> Any:
    choices = getattr(response, "choices", None)
    if not choices:
        said = server.clean(str(response))
        raise SampleError(f"{server.url} answered, but with no completion: {said}")
    if choices[0].finish_reason == "content_filter":
        raise SampleError(f"{server.url} filtered the answer out", is_permanent=True)
    return choices[0]


def read(
    response: Any, choice: Any, text: str, label_logprobs: dict[str, float] | None = None
) -> Completion:
    usage = response.usage
    details = getattr(usage, "prompt_tokens_details", None)
    return Completion(
        text=text,
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        cached_tokens=getattr(details, "cached_tokens", 0) or 0,
        output_tokens=getattr(usage, "completion_tokens", 0) or 0,
        label_logprobs=label_logprobs,
    )
