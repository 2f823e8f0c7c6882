"""A run, from a recipe to traces and datasets. READ FIRST `run.py`.

May import recipe and what is below it.
"""
