"""An AI-feedback self-alignment data factory: prompts and a constitution in, a better model out."""

from factory.api import Run, load_traces, preview, run, train

__all__ = ["Run", "load_traces", "preview", "run", "train"]
__version__ = "0.1.0"
