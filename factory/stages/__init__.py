"""Stages that make and change candidates: generate, critique, revise, filter, corrupt.

What a stage of one's own needs is here: `from factory.stages import Candidate, Question, Sampling,
Stage`. May import engines, math, stats and core; what scores candidates is in `factory/scorers`.
"""

from factory.core.records import Candidate, Sample
from factory.engines.base import Sampling
from factory.stages.base import Models, Question, Stage

__all__ = ["Candidate", "Models", "Question", "Sample", "Sampling", "Stage"]
