"""An AI-feedback self-alignment data factory: prompts and a constitution in, a better model out."""

from factory.api import Run, load_traces, preview, run, train
from factory.core.version import __version__

__all__ = ["Run", "__version__", "load_traces", "preview", "run", "train"]
