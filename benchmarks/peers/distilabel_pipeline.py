"""The job as a distilabel pipeline: a ChatGeneration task for each of the three texts.

python distilabel_pipeline.py JOB.json FOLDER
"""

import json
import sys
from pathlib import Path

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, Step, StepInput
from distilabel.steps.tasks import ChatGeneration

job = json.loads(Path(sys.argv[1]).read_text())
folder = Path(sys.argv[2])
BATCH = 16  # rows: the fastest of 8, 16 and 48


def task(position: int) -> ChatGeneration:
    llm = OpenAILLM(
        model=job["model"],
        base_url=job["url"],
        api_key="none",
        generation_kwargs={
            "temperature": job["temperature"],
            "max_new_tokens": job["max_tokens"][position],
            "extra_body": job["extra_body"],
        },
    )
    return ChatGeneration(
        name=f"write_{job['columns'][position]}",
        llm=llm,
        input_batch_size=BATCH,
        output_mappings={"generation": job["columns"][position]},
        add_raw_input=False,
        add_raw_output=False,
    )


class FollowUp(Step):
    """Lengthens the conversation by an answer and the next request."""

    column: str
    request: str

    @property
    def inputs(self) -> list[str]:
        return ["messages", self.column]

    @property
    def outputs(self) -> list[str]:
        return ["messages"]

    def process(self, inputs: StepInput):
        for row in inputs:
            row["messages"] = [
                *row["messages"],
                {"role": "assistant", "content": row[self.column].strip()},
                {"role": "user", "content": self.request},
            ]
        yield inputs


def follow_up(position: int) -> FollowUp:
    column = job["columns"][position]
    return FollowUp(
        name=f"after_{column}",
        column=column,
        request=job["requests"][position],
        input_batch_size=BATCH,
    )


if __name__ == "__main__":
    with Pipeline("peers", cache_dir=folder / "cache") as pipeline:
        rows = [{"messages": [{"role": "user", "content": prompt}]} for prompt in job["prompts"]]
        load = LoadDataFromDicts(data=rows, batch_size=BATCH)
        load >> task(0) >> follow_up(0) >> task(1) >> follow_up(1) >> task(2)
    pipeline.run(use_cache=False).save_to_disk(folder / "dataset")
