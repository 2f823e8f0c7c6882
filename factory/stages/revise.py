"""Ask the model to rewrite its answer by its critique (Bai et al. 2022, section 3.1).

The revision continues the critique's conversation: the critique is the assistant's turn, the revision
request is the user's, and the answer is the revision, a new candidate whose parent is the old one. To
make a further round, list critique and revise again in the recipe.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from factory.core.records import Message, Sample
from factory.engines.base import Sampling
from factory.stages.base import (
    Expected,
    Models,
    Question,
    Stage,
    add_answer,
    constitution_for,
    template_problem,
)
from factory.stages.critique import EXAMPLE, conversation_of, request_for

REVISION_REQUEST = "{{ instructions }} Give only the new answer, with no remarks about it."


class Revise(Stage):
    """Rewrite the newest candidates by their critiques."""

    kind: Literal["revise"] = "revise"
    model: str
    sampling: Sampling = Sampling()
    template: str = REVISION_REQUEST
    """The request. Can use: instructions, principles (id, title, revision), prompt, answer, critique.
    `{{ critique | quoted }}` puts "> " before each line."""

    makes: ClassVar[frozenset[str]] = frozenset({"revisions"})
    needs: ClassVar[frozenset[str]] = frozenset({"candidates", "critiques"})

    def uses_constitution(self) -> bool:
        return True

    def problem(self) -> tuple[str, str] | None:
        return template_problem(self.template, **EXAMPLE, critique="Curt.")

    def expected_calls(self, sample: Expected) -> float:
        return sample.answers

    def expected_after(self, sample: Expected) -> Expected:
        return sample._replace(rounds=sample.rounds + 1)

    async def __call__(self, sample: Sample, models: Models) -> Sample:
        constitution = constitution_for(self, models)
        by_id = {p.id: p for p in constitution.principles}
        heads = {c.index for c in sample.heads()}
        # An empty critique (its thought never ended) leads to no revision.
        critiques = [c for c in sample.critiques if c.candidate in heads and c.text]
        questions = []
        for critique in critiques:
            candidate = sample.candidates[critique.candidate]
            principles = [by_id[i] for i in critique.principle_ids]
            request = request_for(
                self.template, sample, candidate, "revision", principles, critique=critique.text
            )
            messages: list[Message] = [
                *conversation_of(sample, critique, constitution),
                {"role": "assistant", "content": critique.text},
                {"role": "user", "content": request},
            ]
            questions.append(Question(messages, self.sampling, salt=("revise", candidate.index)))
        asked = await models.ask(self.model, questions)
        for critique, answer in zip(critiques, asked, strict=True):
            parent, round_ = critique.candidate, critique.round
            add_answer(sample, answer, "revise", self.model, parent=parent, round=round_)
        return sample
