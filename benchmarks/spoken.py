"""An engine that writes plausible sentences at once, to make runs that look like real ones.

No model is behind it: answers are drawn from a list of sentences, revisions drop or reword some of the
answer's, and verdicts prefer shorter answers, a little the one shown first, and are noisy.
"""

from __future__ import annotations

import hashlib
import math
import random
import re

import msgspec

from factory.engines.base import Completion, EngineStats, Request

SENTENCES = """\
Start with the simplest thing that could work.
It depends on how much time you have.
Most people overlook the first step, which matters more than all the others together.
Keep a short list of what you have already tried.
Give it a few days before you decide that it does not work.
Warm it slowly, and stir now and then.
Ask one person who has done it before.
Write the numbers down, since memory is kinder than paper.
Use half of what the packet says, and taste.
A cheap one does the job as well as an expensive one.
Leave the window open for ten minutes.
Cold water is enough for the first rinse.
Begin in the evening, when the house is quiet.
If it smells sour, throw it away.
Set a timer so that you need not watch it.
Do the dull part first.
Say plainly what you want, and by when.
You can always make it shorter later.
That said, there are many other things to consider, and each of them could be discussed at length.
In conclusion, as mentioned above, it is important to keep all of this in mind at all times.
I cannot help with that.
There are a number of reasons for this, and it is worth going through them one by one.
Good light and a chair of the right height make the most difference.
Two spoons of vinegar in warm water take off most stains.""".splitlines()
CRITIQUES = """\
The answer repeats itself and could be half as long.
It opens with a remark that says nothing about the question.
The last sentence only restates what was said before.
It is to the point, but one step is missing.
It tells the reader what to think instead of what to do.""".splitlines()


class SpokenEngine:
    """A function of the request, as with a real engine."""

    fingerprint = "spoken"

    def __init__(self) -> None:
        self._stats = EngineStats()

    async def thinks(self) -> bool:
        return False

    async def generate(self, request: Request) -> Completion:
        content = msgspec.json.encode([request.messages, request.draw, request.labels])
        rng = random.Random(hashlib.blake2b(content, digest_size=8).digest())
        prompt_tokens = sum(len(m["content"]) for m in request.messages) // 4
        cached = int(prompt_tokens * min(0.9, 0.25 * len(request.messages)))
        logs = _verdict(request, rng) if request.labels else None
        text = "" if logs else _text(request, rng)
        tokens = 1 if logs else max(1, len(text) // 4)
        reason = "length" if not logs and rng.random() < 0.04 else "stop"
        completion = Completion(text, reason, prompt_tokens, cached, tokens, logs)
        self._stats.add(completion)
        return completion

    def stats(self) -> EngineStats:
        return self._stats

    async def close(self) -> None:
        pass


def _text(request: Request, rng: random.Random) -> str:
    assistant = [m["content"] for m in request.messages if m["role"] == "assistant"]
    if not assistant:
        return " ".join(rng.sample(SENTENCES, rng.randint(2, 8)))
    if len(assistant) == 1:
        return " ".join(rng.sample(CRITIQUES, rng.randint(1, 2)))
    sentences = re.split(r"(?<=\.) ", assistant[-2])
    kept = [s for s in sentences if rng.random() > 0.3] or sentences[:1]
    if rng.random() < 0.5:
        kept.insert(rng.randrange(len(kept) + 1), rng.choice(SENTENCES))
    return " ".join(s.replace("it is important to", "do") for s in kept)


def _verdict(request: Request, rng: random.Random) -> dict[str, float]:
    asked = request.messages[-1]["content"]
    a, _, b = asked.partition("Answer (B):")
    a = a.rpartition("Answer (A):")[2].strip()
    b = b.rpartition("\n\n")[0].strip()
    # Both orders see the same noise: it is drawn from the answers, whichever comes first.
    both = "".join(sorted((a, b)))
    noise = random.Random(both).gauss(0, 1.1) * (1 if a < b else -1)
    lead = 0.005 * (len(b) - len(a)) + noise + 0.2 + rng.gauss(0, 0.15)
    p = 1 / (1 + math.exp(-lead))
    return {label: math.log(0.97 * each) for label, each in zip("AB", (p, 1 - p), strict=True)}
