"""The workbench: a constitution is edited with evidence. May import pipeline and what is below it.

`lint` finds mistakes in a file, `tests` puts its own tests to a judge, `convert` reads other formats.
"""
