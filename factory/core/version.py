"""The version of this package, as it is written into runs, models and cards."""

__version__ = "0.1.0"
