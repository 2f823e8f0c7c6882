"""Ask the model for critiques of its answers (Bai et al. 2022, arXiv 2212.08073, section 3.1).

For each newest candidate, principles (by default one) are drawn from the constitution by a seed of the
sample and the round. The model then criticizes the answer within the same conversation. Worked examples
from the constitution (`few_shot`) come first; they keep small models from answering the prompt again
instead.

Departures from the paper: principles can be weighted and limited to tags, and several can be used in
one critique. A principle is not drawn twice within one round.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.core.constitution import Constitution, Principle
from factory.core.records import Candidate, Critique, Message, Sample
from factory.engines.base import Sampling
from factory.stages.base import (
    EXAMPLE_PRINCIPLE,
    Expected,
    Models,
    Question,
    Stage,
    constitution_for,
    render,
    template_problem,
)

CRITIQUE_REQUEST = "{{ instructions }} Give only your criticism, in a few sentences."
EXAMPLE: dict[str, Any] = {
    "instructions": "Improve.",
    "principles": [EXAMPLE_PRINCIPLE],
    "prompt": "Hello",
    "answer": "Hi",
}
"""Values on which a user's template is tried."""


class Criticize(Stage):
    """Criticize the newest candidates by principles of the constitution."""

    kind: Literal["critique"] = "critique"
    model: str
    principles: int | Literal["all"] = 1
    """Number of principles drawn per round, or `all` that apply."""
    few_shot: int = Field(0, ge=0)
    """Number of worked examples of the constitution that are shown first."""
    sampling: Sampling = Sampling(max_tokens=128)
    template: str = CRITIQUE_REQUEST
    """The request. Can use: instructions, principles (id, title, critique), prompt, answer.
    `{{ answer | quoted }}` puts "> " before each line."""

    makes: ClassVar[frozenset[str]] = frozenset({"critiques"})
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def uses_constitution(self) -> bool:
        return True

    def problem(self) -> tuple[str, str] | None:
        if self.principles != "all" and self.principles < 1:
            return "principles", f"expected 1 or more, or 'all'; found {self.principles}"
        return template_problem(self.template, **EXAMPLE)

    def expected_calls(self, sample: Expected) -> float:
        return sample.answers

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        constitution = constitution_for(self, models)
        todo: list[tuple[Critique, Question]] = []
        drawn: dict[int, list[Principle]] = {}
        for candidate in sample.heads():
            round_ = candidate.round + 1
            if round_ not in drawn:
                seed = models.seed("principle", round_)
                drawn[round_] = constitution.choose(sample.tags, self.principles, seed)
            chosen = drawn[round_]
            if not chosen:
                continue  # no principle applies to this sample: nothing to criticize
            critique = Critique(
                candidate=candidate.index,
                round=round_,
                principle_ids=[p.id for p in chosen],
                text="",
                call="",
                request=request_for(self.template, sample, candidate, "critique", chosen),
                few_shot=self.few_shot,
            )
            messages = conversation_of(sample, critique, constitution)
            salt = ("critique", candidate.index)
            todo.append((critique, Question(messages, self.sampling, salt=salt)))
        asked = await models.ask(self.model, [question for _, question in todo])
        for (critique, _), answer in zip(todo, asked, strict=True):
            critique.text = answer.completion.text.strip()
            critique.reasoning = answer.completion.reasoning
            critique.call = answer.call
            sample.critiques.append(critique)
        return sample


def request_for(
    template: str,
    sample: Sample,
    candidate: Candidate,
    instruction: Literal["critique", "revision"],
    principles: list[Principle],
    **more: str,
) -> str:
    """The user's turn that asks for a critique or a revision of the candidate by the principles."""
    return render(
        template,
        instructions=" ".join(getattr(principle, instruction) for principle in principles),
        principles=principles,
        prompt=sample.prompt[-1]["content"],
        answer=candidate.text,
        **more,
    )


def conversation_of(
    sample: Sample, critique: Critique, constitution: Constitution
) -> list[Message]:
    """The conversation that asks for a critique. Without worked examples it continues the one that made
    the answer, which is still in the engine's prefix cache."""
    answered = sample.conversation(sample.candidates[critique.candidate])
    system = answered[:1] if answered[0]["role"] == "system" else []  # must come first
    return [
        *system,
        *worked_examples(constitution, critique.few_shot),
        *answered[len(system) :],
        {"role": "user", "content": critique.request},
    ]


def worked_examples(constitution: Constitution, count: int) -> list[Message]:
    turns: list[Message] = []
    for example in constitution.examples[:count]:
        turns += [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": example.answer},
            {"role": "user", "content": "Criticise your last answer. Give only your criticism."},
            {"role": "assistant", "content": example.critique},
            {"role": "user", "content": "Rewrite your answer. Give only the new answer."},
            {"role": "assistant", "content": example.revision},
        ]
    return turns
