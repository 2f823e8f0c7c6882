"""The least that does the job: a coroutine for each prompt, a semaphore, a file at the end.

python plain_client.py JOB.json FOLDER [--seeded]
"""

import asyncio
import itertools
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI

job = json.loads(Path(sys.argv[1]).read_text())
seeds = itertools.count() if "--seeded" in sys.argv else None


async def main() -> None:
    client = AsyncOpenAI(base_url=job["url"], api_key="none")
    turn = asyncio.Semaphore(job["concurrency"])

    async def ask(messages: list, max_tokens: int) -> str:
        async with turn:
            answer = await client.chat.completions.create(
                model=job["model"],
                messages=messages,
                max_tokens=max_tokens,
                temperature=job["temperature"],
                extra_body=job["extra_body"],
                **({"seed": next(seeds)} if seeds else {}),
            )
        return answer.choices[0].message.content

    async def row(prompt: str) -> dict:
        messages = [{"role": "user", "content": prompt}]
        texts = []
        for max_tokens, request in zip(job["max_tokens"], [*job["requests"], None], strict=True):
            texts.append(await ask(messages, max_tokens))
            messages += [
                {"role": "assistant", "content": texts[-1].strip()},
                {"role": "user", "content": request},
            ]
        return {"prompt": prompt, **dict(zip(job["columns"], texts, strict=True))}

    rows = await asyncio.gather(*map(row, job["prompts"]))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (Path(sys.argv[2]) / "rows.jsonl").write_text(lines)


asyncio.run(main())
