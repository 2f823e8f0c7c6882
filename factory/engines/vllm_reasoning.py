"""Thoughts of a model that vLLM runs in this process, split by marks or by one of vLLM's parsers.

A parser is vLLM's own code for a model's form, named as for `--reasoning-parser`. Without one, the chat
template's marks are used (`reasoning`). Prefixes and counts of tokens always use the marks; a parser
supplies them if the template has none.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import RecipeError
from factory.engines.control_tokens import named, special_names
from factory.engines.reasoning import (
    OFF,
    ON,
    Marks,
    Said,
    Where,
    cut,
    marks_in,
    thinks,
    thought_tokens,
)
from factory.engines.render import laid_out, plain_ids

_END = 16  # tokens at a prompt's end that are searched for a mark


class Thoughts:
    """Writing and reading of one model's thoughts."""

    def __init__(
        self,
        tokenizer: Any,
        template_kwargs: Mapping[str, Any],
        parser: str | None = None,
        model_config: Any = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._parser = _Parser(parser, tokenizer, template_kwargs, model_config) if parser else None
        self.marks = marks_in(tokenizer.chat_template)
        if self.marks is None and self._parser is not None:
            self.marks = self._parser.marks()
        self._control = named(special_names(tokenizer))

    @property
    def are_there(self) -> bool:
        return self.marks is not None or self._parser is not None

    @property
    def shows_control_tokens(self) -> bool:
        """True if vLLM must leave control tokens in the text, as marks or for the parser."""
        if self._parser is not None:
            return self._parser.reads_control_tokens
        marks = self.marks
        return marks is not None and bool(self._named(marks.open + marks.close))

    def begin(self, ids: list[int], prefix: str) -> tuple[list[int], Where]:
        """The prompt's ids with those of the prefix, and the kind of text that comes next."""
        if self.marks is None:
            return ids + plain_ids(self._tokenizer, prefix), "answer" if prefix else "either"
        end = self._tokenizer.decode(ids[-_END:], skip_special_tokens=False)
        pieces, where = self.marks.layout(end, prefix)
        return ids + laid_out(self._tokenizer, pieces), where

    def stops(self, stops: Sequence[str], where: Where) -> tuple[list[str], list[str]]:
        """As `Marks.stops`."""
        return self.marks.stops(stops, where) if self.marks else ([*stops], [])

    def read(self, output: Any, where: Where, stops: Sequence[str]) -> tuple[Said, str, int]:
        """(thought and answer, `Completion.finish_reason`, tokens of the thought) of one of vLLM's
        outputs. `stops`: strings at which the answer ends that vLLM was not given."""
        text, ids, marks = output.text, output.token_ids, self.marks
        if where == "answer":
            said = Said(None, text)
        else:
            if marks is not None and output.stop_reason == marks.close:
                text += marks.close
            if self._parser is not None:
                said = self._parser.split(text, ids, marks)
            else:
                assert marks is not None
                said = marks.split(text, where)
        said, reason = cut(said, output.finish_reason, stops)
        tokens = 0
        if marks is not None:
            tokens = thought_tokens(ids, said, marks.close, self._decoded)
        elif self._parser is not None and said.reasoning is not None:
            tokens = len(ids) if said.answer is None else self._parser.count(ids, said)
        if self.shows_control_tokens:
            said = said._replace(
                reasoning=said.reasoning and self._without_control_tokens(said.reasoning),
                answer=said.answer and self._without_control_tokens(said.answer),
            )
        return said, reason, tokens

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _named(self, text: str) -> re.Match[str] | None:
        return self._control.search(text) if self._control else None

    def _without_control_tokens(self, text: str) -> str:
        return self._control.sub("", text).strip() if self._control else text


class _Parser:
    """One of vLLM's reasoning parsers, as its server uses it. It has state, so each text needs its own."""

    def __init__(
        self, name: str, tokenizer: Any, template_kwargs: Mapping[str, Any], model_config: Any
    ) -> None:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.parser.parser_manager import ParserManager

        found: Any = ParserManager.get_parser(
            reasoning_parser_name=name, is_harmony=name == "openai_gptoss"
        )
        kwargs = {"chat_template_kwargs": {**template_kwargs}, "model_config": model_config}
        self._make = functools.partial(found, tokenizer, None, **kwargs)
        self._tokenizer = tokenizer
        request = ChatCompletionRequest(
            model="",
            messages=[{"role": "user", "content": ""}],
            chat_template_kwargs=template_kwargs,
        )
        try:
            self._request = self._make().adjust_request(request)
        except Exception as error:  # for example, the tokenizer lacks the parser's marks
            raise RecipeError(
                f"reasoning_parser: vLLM's '{name}' cannot read this model: {error}; name another, "
                "or leave it out: the chat template's own marks are then used"
            ) from error
        self.reads_control_tokens = not self._request.skip_special_tokens

    def marks(self) -> Marks | None:
        parser = self._make().reasoning_parser
        start, end = (getattr(parser, f"reasoning_{at}_str", None) for at in ("start", "end"))
        return Marks(start.strip(), end.strip(), "\n") if start and end else None

    def split(self, text: str, ids: Sequence[int], marks: Marks | None) -> Said:
        thought, answer, _ = self._make().parse(
            text, self._request, enable_auto_tools=False, model_output_token_ids=list(ids)
        )
        if thought is None:
            return Said(None, answer or "")
        head = text.removesuffix(answer or "")
        closings = head.count(marks.close) if marks else 0
        if answer is None and closings:
            answer = ""
        thought, answer = thought.strip(), answer and answer.lstrip()
        return Said(thought if answer is None else thought or None, answer, closings)

    def count(self, ids: Sequence[int], said: Said) -> int:
        counted = int(self._make().count_reasoning_tokens(list(ids)))
        return counted or len(plain_ids(self._tokenizer, said.reasoning or ""))


def template_of(folder: Path) -> str:
    """The chat templates in a model's folder, as one text. "": there is none, or it cannot be read."""
    found = []
    for path in (folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")):
        if path.is_file():
            found.append(path.read_text("utf-8", errors="replace"))
    for name in ("tokenizer_config.json", "chat_template.json"):
        try:
            template = json.loads((folder / name).read_text("utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue
        found.append(template if isinstance(template, str) else json.dumps(template or ""))
    return "\n".join(found)


def tokenizer_thinks(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> bool:
    """True if a model thinks before it answers, by its chat template."""
    marks = marks_in(tokenizer.chat_template)
    if marks is None:
        return False
    plain, off, on = (_prompt(tokenizer, {**template_kwargs, **s}) for s in ({}, OFF, ON))
    return thinks(marks, plain, off, on)


def _prompt(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> str:
    """A prompt as text, as the model sees it before it answers."""
    options = {**template_kwargs, "tokenize": False, "add_generation_prompt": True}
    return str(tokenizer.apply_chat_template([{"role": "user", "content": "x"}], **options))


def answer_reader(
    tokenizer: Any, template_kwargs: Mapping[str, Any]
) -> Callable[[Sequence[int]], str] | None:
    """A function from a completion's ids to its answer without the thought; "" if the thought never
    ended. None: the model does not think."""
    marks = marks_in(tokenizer.chat_template)
    if marks is None:
        return None
    where = marks.where(_prompt(tokenizer, template_kwargs))
    control = named(special_names(tokenizer))

    def read(ids: Sequence[int]) -> str:
        text = str(tokenizer.decode(ids, skip_special_tokens=False))
        answer = marks.split(text, where).answer or ""
        return control.sub("", answer) if control else answer

    return read
