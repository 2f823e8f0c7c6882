"""Where prompts and rows come from: files in every public shape, the Hub, generators, benchmarks.

May import engines, math, stats and core.
"""
