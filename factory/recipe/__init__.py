"""The YAML of a recipe: read, checked across its fields, and the registries that its `kind`s name.

May import training, export and what is below them.
"""
