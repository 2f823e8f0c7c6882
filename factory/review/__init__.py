"""A run's pairs, decided by people in a browser on this machine. READ FIRST `session.py`.

May import the pipeline and what is below it. No model is called. What a decision is, and how decisions
are applied, is in `export/decisions.py` and `export/reviewed.py`.
"""
