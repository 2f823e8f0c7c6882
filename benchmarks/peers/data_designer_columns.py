"""The job with NeMo Data Designer: a custom column for each of the three texts.

Its LLM columns take one prompt, not a conversation; a custom column calls the model itself.

    python data_designer_columns.py JOB.json FOLDER
"""

import json
import sys
from pathlib import Path

import data_designer.config as dd
import pandas as pd
from data_designer.engine.models.utils import ChatMessage
from data_designer.interface import DataDesigner

job = json.loads(Path(sys.argv[1]).read_text())
COLUMNS = job["columns"]


def column(position: int) -> dd.CustomColumnConfig:
    earlier = COLUMNS[:position]

    @dd.custom_column_generator(required_columns=["prompt", *earlier], model_aliases=["policy"])
    async def write(row, generator_params, models):
        messages = [ChatMessage("user", row["prompt"])]
        for name, request in zip(earlier, job["requests"], strict=False):
            messages += [ChatMessage("assistant", row[name].strip()), ChatMessage("user", request)]
        answer = await models["policy"].acompletion(
            messages, max_tokens=job["max_tokens"][position]
        )
        return {**row, COLUMNS[position]: answer.message.content}

    return dd.CustomColumnConfig(name=COLUMNS[position], generator_function=write)


provider = dd.ModelProvider(name="server", endpoint=job["url"], api_key="none")
model = dd.ModelConfig(
    alias="policy",
    model=job["model"],
    provider="server",
    skip_health_check=True,  # it has no max_tokens, and would write to the end of the context
    inference_parameters=dd.ChatCompletionInferenceParams(
        temperature=job["temperature"],
        max_parallel_requests=job["concurrency"],
        extra_body=job["extra_body"],
    ),
)
builder = dd.DataDesignerConfigBuilder(model_configs=[model])
builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame({"prompt": job["prompts"]})))
for position in range(len(COLUMNS)):
    builder.add_column(column(position))
designer = DataDesigner(Path(sys.argv[2]), model_providers=[provider])
designer.create(builder, num_records=len(job["prompts"]), dataset_name="peers")
