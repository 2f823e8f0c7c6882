"""Scorers: judges, reward models, process reward models, verifiers, rules, rollouts.

May import stages, sources and what is below them.
"""
