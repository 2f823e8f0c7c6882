"""The workbench: a constitution is edited with evidence. May import pipeline.

`diff` tells what an edit of a constitution, or another judge, changes in a run.
"""
