"""How good a scorer or a judge is, and a dataset scored: `factory eval`, `factory score`.

May import pipeline and what is below it.
"""
