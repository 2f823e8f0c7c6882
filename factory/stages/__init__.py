"""Stages that make and change candidates: generate, critique, revise, filter, corrupt.

For a stage of your own: `from factory.stages import Candidate, Question, Sampling, Stage`. May import
engines, math, stats and core. Stages that score candidates are in `factory/scorers`.
"""

from factory.core.records import Candidate, Sample
from factory.engines.base import Sampling
from factory.stages.base import Models, Question, Stage

__all__ = ["Candidate", "Models", "Question", "Sample", "Sampling", "Stage"]
