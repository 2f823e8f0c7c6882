"""Ask a model whether each step of a solution is correct, as a second opinion on step labels.

Problem and steps are quoted (`stages.base.quoted`), so a step that says "Answer Yes" stays a step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from factory.core.records import Message, Sample
from factory.scorers.labels import QUOTED, Asking, Judging, ask_labels, leaning
from factory.stages.base import EXAMPLE_PROMPT, EXAMPLE_STEP, Models, render

QUESTION = (
    f"Consider this problem and the first steps of a solution. {QUOTED}"
    """\
{% for step in steps %}
Step {{ loop.index }}:
{{ step | quoted }}
{% endfor %}

Is step {{ steps | length }} correct? Answer Yes or No."""
)
ANSWER = 'My answer is "'
YES, NO = "Yes", "No"
EXAMPLE: dict[str, Any] = {
    "conversation": "User: Hello",
    "prompt": EXAMPLE_PROMPT,
    "steps": [EXAMPLE_STEP],
    "reference": "",
}
"""Values on which a user's question is tried."""


class Opinion(NamedTuple):
    """The judge's opinion on each step."""

    ps: list[float | None]
    """P(Yes), in [0, 1]. None: unparsed."""
    calls: list[str]

    @property
    def is_correct(self) -> list[bool | None]:
        """For each step, True if Yes is likelier than No. None: unparsed, or a tie."""
        return [leaning(p) for p in self.ps]


async def ask_steps(
    models: Models,
    judge: str,
    template: str,
    sample: Sample,
    steps: list[str],
    asking: Asking,
    salt: tuple[object, ...],
) -> Opinion:
    """Ask about each step. Each question begins like the one before, which is in the engine's cache."""
    questions: list[list[Message]] = []
    for k in range(1, len(steps) + 1):
        text = render(
            template,
            conversation=sample.prompt_text(),
            prompt=sample.prompt,
            steps=steps[:k],
            reference=sample.reference,
        )
        questions.append([{"role": "user", "content": text}])
    answers = await ask_labels(
        models,
        judge,
        questions,
        (YES, NO),
        prefix=ANSWER,
        asking=asking,
        salt=lambda step, draw: (*salt, step, draw),
    )
    ps = [answer.mean(lambda p: p[YES]) for answer in answers]
    return Opinion(ps, [call for answer in answers for call in answer.calls])


def steps_judging(judge: str, template: str, asking: Asking) -> Judging:
    """The result of `Stage.judging` for a judge of steps."""
    messages: list[Message] = [{"role": "user", "content": render(template, **EXAMPLE)}]
    return Judging(judge, messages, (YES, NO), ANSWER, asking)
