"""Online rewards: what a completion is worth while the policy is trained on it.

`rewards:` of a training's config is a list of entries, each with a `kind`, a `weight` (default 1)
and a `name` under which it is logged (default: the kind). The kinds, and where each runs:

    length, sentences, pattern (or format), overlong    rules (`factory.scorers.rules`): arithmetic
    verify                                              against the column `reference`, no model
    reward, process                                     a scoring model by transformers, in this process
    judge                                               a served model, over HTTP

    rewards:
      - {kind: verify, how: math}
      - {kind: reward, model: runs/rm, weight: 0.5}
      - {kind: judge, endpoint: http://localhost:8000/v1, model: judge, rubric: "..."}
      - {kind: overlong, maximum: 512, cache: 128}

The last four kinds are scorers of the registry (`factory.scorers.SCORERS`), and so may be any other
there: the stages of the same name, with their options, scoring one answer at a time. The total is the
weighted sum of the raw scores: nothing is standardized, so weights carry the scale. Where a part with
a weight gives no number the total is None, never a sum of the rest: the completion is left out and
counted. PPO drops it; grpo and rloo give it advantage 0, so that only a KL term acts on it. A weight of
0: logged only.

What the policy failed at is no such case: where `verify` reads no answer, or `process` no step, the
reward is `unparsed`, 0 by default. Left out, dodging a problem would beat trying it.
"""

from __future__ import annotations

from factory.training.online.rewards.entries import parse_rewards
from factory.training.online.rewards.score import Rewards, Scored, build_rewards

__all__ = ["Rewards", "Scored", "build_rewards", "parse_rewards"]
