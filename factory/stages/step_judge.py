"""Ask a model whether each step of a solution is correct: a second opinion on labels of steps."""

from __future__ import annotations

from typing import NamedTuple

from factory.records import Message, Sample
from factory.stages.base import (
    EXAMPLE_PROMPT,
    EXAMPLE_STEP,
    Models,
    Question,
    render,
    template_problem,
)
from factory.stages.labels import ask_labels, label_examples

QUESTION = """\
Consider this problem and the first steps of a solution.

{{ conversation }}

{% for step in steps %}
Step {{ loop.index }}: {{ step }}
{% endfor %}

Is step {{ steps | length }} correct? Answer Yes or No."""
ANSWER = 'My answer is "'
YES, NO = "Yes", "No"


class Opinion(NamedTuple):
    """What the judge says of each step."""

    is_correct: list[bool | None]
    """P(Yes) is at least one half. None: unparsed."""
    calls: list[str]


async def ask_steps(
    models: Models, judge: str, template: str, sample: Sample, steps: list[str]
) -> Opinion:
    """Each question begins with the one before it, which the engine has in its cache."""
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
        reasoning=None,
        salts=[()] * len(questions),
    )
    is_correct = [a.probabilities[YES] >= 0.5 if a.probabilities else None for a in answers]
    return Opinion(is_correct, [answer.call for answer in answers])


def example_question(template: str) -> Question:
    """For `Stage.examples`."""
    values = {"conversation": "User: Hello", "prompt": EXAMPLE_PROMPT, "reference": ""}
    text = render(template, **values, steps=[EXAMPLE_STEP])
    messages: list[Message] = [{"role": "user", "content": text}]
    [asked] = label_examples(messages, (YES, NO), prefix=ANSWER, reasoning=None)
    return asked


def question_problem(template: str) -> str | None:
    """What is wrong with a user's question; None: nothing."""
    return template_problem(
        template, conversation="", prompt=EXAMPLE_PROMPT, steps=["1 + 1 = 2"], reference=""
    )
