"""Traces to datasets: one module per view, the card, the writer. READ FIRST `export.py`.

May import scorers and what is below them. No model is called.
"""
