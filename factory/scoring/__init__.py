"""Scoring a dataset that exists already: rows in, the same rows with scores out."""
