"""The workbench: a constitution is edited with evidence. May import pipeline and what is below it.

`lint` finds mistakes in a file, `tests` puts its own tests to a judge, `diff` tells what an edit or
another judge changes in a run, `convert` reads other formats.
"""
