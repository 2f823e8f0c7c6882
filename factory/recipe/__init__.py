"""Recipes: the YAML, its checks, and the registries that its `kind`s name.

May import training, export and what is below them.
"""
