"""An AI-feedback self-alignment data factory: prompts and a constitution in, a better model out."""

__version__ = "0.1.0"
