"""What is asked: one stage a file. The table below is the registry."""

from __future__ import annotations

from factory.stages.base import Stage
from factory.stages.corrupt import Corrupt
from factory.stages.critique import Criticise
from factory.stages.filter import Filter
from factory.stages.generate import Generate
from factory.stages.judge_pairwise import PairwiseJudge
from factory.stages.judge_pointwise import PointwiseJudge
from factory.stages.process import ProcessReward
from factory.stages.rank import Rank
from factory.stages.revise import Revise
from factory.stages.reward import Reward
from factory.stages.rollout import Rollout
from factory.stages.rule import RuleScore
from factory.stages.verify import Verify

# kind -> class, or a table of classes by `mode`, the first being the default.
STAGES: dict[str, type[Stage] | dict[str, type[Stage]]] = {
    "generate": Generate,
    "critique": Criticise,
    "revise": Revise,
    "judge": {"pairwise": PairwiseJudge, "pointwise": PointwiseJudge},
    "reward": Reward,
    "process": ProcessReward,
    "verify": Verify,
    "rule": RuleScore,
    "rollout": Rollout,
    "rank": Rank,
    "corrupt": Corrupt,
    "filter": Filter,
}
