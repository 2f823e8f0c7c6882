"""Scorers: judges, reward models, process reward models, verifiers, rules, rollouts.

`SCORERS` is the registry. May import stages, sources and what is below them.
"""

from factory.scorers.judge_pairwise import PairwiseJudge
from factory.scorers.judge_pointwise import PointwiseJudge
from factory.scorers.process_reward import ProcessReward
from factory.scorers.reward_model import Reward
from factory.scorers.rules import RuleScore
from factory.scorers.verify import Verify
from factory.stages.base import Stage

SCORERS: dict[str, type[Stage] | dict[str, type[Stage]]] = {
    "judge": {"pairwise": PairwiseJudge, "pointwise": PointwiseJudge},
    "reward": Reward,
    "process": ProcessReward,
    "verify": Verify,
    "rule": RuleScore,
}
"""kind -> class, or a table of classes by `mode`, the first being the default. Each scores an answer by
that answer alone (a judge: pointwise), so all are stages of recipes, score datasets (`factory score`,
`factory eval`), compare models (`evaluation.scores`) and reward online trainings."""
