"""Foundations: records, errors, configs, YAML, files and locks, weights, constitutions.

May import no other package of the factory. torch and transformers only in `weights`, inside functions.
"""
