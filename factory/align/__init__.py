"""Alignment in rounds: run, train, compare on held-out prompts. READ FIRST `loop.py`.

May import pipeline and what is below it.
"""
