"""Stages that make and change candidates: generate, critique, revise, filter, corrupt.

May import engines, math, stats and core. What scores candidates is in `factory/scorers`.
"""
