"""Requests as vLLM takes them, and its outputs as completions."""

from __future__ import annotations

from typing import Any, NamedTuple

from factory.core.errors import ContextOverflow, RecipeError, SampleError
from factory.engines.base import LABEL_CONTEXT, Completion, Request, ended, label_token
from factory.engines.reasoning import Where
from factory.engines.render import NEXT_TURN, conversation_ids, prompt_ids, step_ids
from factory.engines.vllm_config import VllmConfig
from factory.engines.vllm_reasoning import Thoughts


class Prepared(NamedTuple):
    """A request as vLLM takes it."""

    ids: list[int]
    positions: list[int]
    """Positions whose outputs are read (of steps, else none)."""
    where: Where
    params: Any
    stops: list[str]
    """Stop strings that end only the answer, which vLLM is not given."""
    tokens: int
    """Most tokens of prompt and answer together."""


class VllmCalls:
    """Calls of one model. `model_config`: vLLM's own, of the started engine."""

    def __init__(self, config: VllmConfig, tokenizer: Any, model_config: Any) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._context: int = model_config.max_model_len
        self._label_ids: dict[tuple[str, str], int] = {}
        self._thoughts: Thoughts | None = None
        """None: the model does not think."""
        if config.task == "generate":
            kwargs, parser = config.chat_template_kwargs, config.reasoning_parser
            thoughts = Thoughts(tokenizer, kwargs, parser, model_config)
            self._thoughts = thoughts if thoughts.are_there else None

    def prepared(self, request: Request) -> Prepared:
        """The input for a request. Raises `SampleError`; `FactoryError` if no such one can be answered."""
        ids, positions, where = self._ids(request)
        params, stops = self._params(request, where)
        output_tokens = 0 if request.scoring else params.max_tokens
        if len(ids) + output_tokens > self._context:
            raise ContextOverflow(len(ids), output_tokens, self._context)
        return Prepared(ids, positions, where, params, stops, len(ids) + output_tokens)

    def completion(self, request: Request, output: Any, prepared: Prepared) -> Completion:
        if request.scoring:
            return _scores(output, prepared.positions)
        return self._answer(request, output, prepared)

    def _answer(self, request: Request, output: Any, prepared: Prepared) -> Completion:
        answer = output.outputs[0]
        finish_reason = ended(answer.finish_reason)
        if finish_reason is None:
            raise SampleError(f"vLLM did not end its answer: finish_reason {answer.finish_reason}")
        logprobs: dict[str, float] | None = None
        if request.labels:
            shown = answer.logprobs[0]
            logprobs = {
                label: shown[token].logprob
                for label in request.labels
                if (token := self.label_id(request.prefix, label)) in shown
            }
        text, reasoning, reasoning_tokens = "" if request.labels else answer.text, None, 0
        if self._thoughts is not None and not request.labels:
            said, reason, reasoning_tokens = self._thoughts.read(
                answer, prepared.where, prepared.stops
            )
            text, finish_reason = said.finished(ended(reason) or finish_reason)
            reasoning = said.reasoning
        return Completion(
            text=text,
            finish_reason=finish_reason,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            output_tokens=len(answer.token_ids),
            label_logprobs=logprobs,
            reasoning=reasoning,
            reasoning_tokens=reasoning_tokens,
        )

    def _ids(self, request: Request) -> tuple[list[int], list[int], Where]:
        """`Prepared`'s ids, positions and where."""
        kwargs, scoring = self._config.chat_template_kwargs, request.scoring
        if scoring is None and self._thoughts is not None:
            ids = prompt_ids(self._tokenizer, request.messages, kwargs)
            ids, where = self._thoughts.begin(ids, request.prefix)
            return ids, [], where
        if scoring is None:
            ids = prompt_ids(self._tokenizer, request.messages, kwargs, request.prefix)
            return ids, [], "answer"
        if not scoring.steps:
            return conversation_ids(self._tokenizer, request.messages, kwargs), [], "answer"
        return *step_ids(self._tokenizer, request.messages, scoring, kwargs), "answer"

    def label_id(self, prefix: str, label: str) -> int:
        end = prefix[-LABEL_CONTEXT:]
        if (end, label) not in self._label_ids:
            before, both, alone = (
                self._tokenizer.encode(text, add_special_tokens=False)
                for text in (end, end + label, label)
            )
            self._label_ids[end, label] = label_token(
                before, both, alone, label, self._config.model
            )
        return self._label_ids[end, label]

    def _params(self, request: Request, where: Where) -> tuple[Any, list[str]]:
        """vLLM's parameters, and the stop strings that end only an answer."""
        from vllm import PoolingParams, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if request.scoring:
            return PoolingParams(task=self._config.task, use_activation=False), []
        if request.labels:
            labels = [self.label_id(request.prefix, label) for label in request.labels]
            params = SamplingParams(
                max_tokens=1,
                temperature=0,
                allowed_token_ids=labels,
                logprob_token_ids=labels,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            return params, []
        values = dict(request.sampling)
        extra = values.pop("extra", {})
        stops: list[str] = []
        if self._tokenizer.chat_template is None:
            values["stop"] = [*values.get("stop", []), NEXT_TURN]
        if self._thoughts is not None:
            if values.get("stop"):
                values["stop"], stops = self._thoughts.stops(values["stop"], where)
            if self._thoughts.shows_control_tokens:
                extra = {"skip_special_tokens": False, **extra}
        try:
            params = SamplingParams(
                **values, **extra, seed=request.seed, output_kind=RequestOutputKind.FINAL_ONLY
            )
            return params, stops
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"vLLM refused the sampling parameters {values | extra}: {error}"
            ) from error


def _scores(output: Any, positions: list[int]) -> Completion:
    """A scoring model's outputs: one row, or one row per position."""
    rows = output.outputs.data.float()
    rows = rows[positions] if positions else rows.reshape(1, -1)
    return Completion(
        text="",
        finish_reason="stop",
        prompt_tokens=len(output.prompt_token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        output_tokens=0,
        scores=rows.tolist(),
    )
