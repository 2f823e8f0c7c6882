"""A scoring model run by transformers in the training's own process: an `Engine` for rewards.

It reads the ids that every engine of ours reads (`factory.engines.render`), so its scores are those
of `factory score` up to rounding. Calls that wait at the same time are scored in batches of like
length. On the CPU in float32, on a GPU in the precision of the weights, beside the policy: its
memory is on top of the training's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core import weights
from factory.core.errors import RecipeError, SampleError
from factory.engines.base import Completion, EngineStats, Request, Task
from factory.engines.render import conversation_ids, step_ids
from factory.training.common.trained_rows import model_inputs

BATCH = 16
"""Conversations in one forward pass."""
_HEADS = {"classify": "ForSequenceClassification", "token_classify": "ForTokenClassification"}
_WHAT = {"classify": "a reward model", "token_classify": "a process reward model"}


class LocalScorer:
    """Loads its model on the first call.

    Raises `RecipeError` when made if there is no such model, or it is of another kind: its head
    would be a new one, and its scores noise.
    """

    def __init__(
        self, model: str, task: Task, folder: Path | None = None, device: str | None = None
    ) -> None:
        """`device`: torch's name of it. None: the GPU, if there is one."""
        self.model_dir = weights.resolve(model, folder)
        self._name = model
        self._task = task
        self._device = device
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._batching: asyncio.Task[None] | None = None
        self._stats = EngineStats()
        self._model: Any = None
        self._tokenizer: Any = None
        config = json.loads((self.model_dir / "config.json").read_text(encoding="utf-8"))
        names = config.get("architectures") or ["no architecture"]
        if not any(name.endswith(_HEADS[task]) for name in names):
            raise RecipeError(
                f"model '{model}' ({', '.join(names)}) is not {_WHAT[task]} "
                f"(...{_HEADS[task]}); name one, as `factory train "
                f"{'reward' if task == 'classify' else 'prm'}` makes"
            )

    @property
    def fingerprint(self) -> str:
        return weights.fingerprint(self.model_dir)

    async def thinks(self) -> bool:
        return False

    def stats(self) -> EngineStats:
        return self._stats

    async def close(self) -> None:
        self._model = self._tokenizer = None

    async def generate(self, request: Request) -> Completion:
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._batching is None:  # all who ask in this turn of the event loop go together
            self._batching = asyncio.create_task(self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        self._batching = None
        waiting, self._waiting = self._waiting, []
        try:
            # In a thread, so that calls over HTTP go on meanwhile.
            found = await asyncio.to_thread(self.score, [request for request, _ in waiting])
        except Exception as error:
            found = [error] * len(waiting)
        for (_, answer), result in zip(waiting, found, strict=True):
            if isinstance(result, Completion):
                self._stats.add(result)
                answer.set_result(result)
            else:
                answer.set_exception(result)

    def score(self, requests: Sequence[Request]) -> list[Completion | Exception]:
        """A completion with `scores` for each request, or the `SampleError` that stops it."""
        self._load()
        results: list[Completion | Exception | None] = [None] * len(requests)
        encoded: list[tuple[int, list[int], list[int]]] = []
        for i, request in enumerate(requests):
            try:
                encoded.append((i, *self._encode(request)))
            except SampleError as error:
                results[i] = error
        encoded.sort(key=lambda row: len(row[1]))
        # Without a padding token the model takes the last place of a row, so rows go one by one.
        size = BATCH if self._tokenizer.pad_token_id is not None else 1
        for start in range(0, len(encoded), size):
            batch = encoded[start : start + size]
            for (i, ids, _), scores in zip(batch, self._forward(batch), strict=True):
                results[i] = Completion("", "stop", len(ids), 0, 0, scores=scores)
        return [result for result in results if result is not None]

    def _encode(self, request: Request) -> tuple[list[int], list[int]]:
        """Ids, and the positions at which steps are read."""
        scoring = request.scoring
        assert scoring is not None
        if scoring.steps:
            ids, positions = step_ids(self._tokenizer, request.messages, scoring, {})
        else:
            ids, positions = conversation_ids(self._tokenizer, request.messages, {}), []
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and len(ids) > context:
            raise SampleError(
                f"{len(ids)} tokens do not fit the context of model '{self._name}', {context}; "
                "lower max_completion_length or leave out long prompts",
                is_permanent=True,
            )
        return ids, positions

    def _forward(
        self, batch: Sequence[tuple[int, list[int], list[int]]]
    ) -> list[list[list[float]]]:
        import torch

        given = model_inputs([ids for _, ids, _ in batch], self._tokenizer.pad_token_id)
        with torch.inference_mode():
            placed = {name: value.to(self._model.device) for name, value in given.items()}
            logits = self._model(**placed).logits
        found: list[list[list[float]]] = []
        for row, (_, _, positions) in zip(logits.float().cpu(), batch, strict=True):
            at = row[positions] if self._task == "token_classify" else row[None]
            found.append(at.tolist())
        return found

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        import transformers

        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.model_dir)
        kind = getattr(transformers, f"AutoModel{_HEADS[self._task]}")
        model = kind.from_pretrained(
            self.model_dir, dtype=torch.float32 if device == "cpu" else "auto", use_safetensors=True
        )
        model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        self._model = model.to(device).eval().requires_grad_(False)
