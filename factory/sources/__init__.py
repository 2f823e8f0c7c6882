"""Sources of prompts and rows: files in every public shape, the Hub, generators, benchmarks.

May import engines, math, stats and core.
"""
