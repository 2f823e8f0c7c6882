"""The loop: run, train, compare on held-out prompts, again. READ FIRST `loop.py`.

May import pipeline and what is below it.
"""
