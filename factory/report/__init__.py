"""A run as one static HTML page: `report.py` first. Reads what a run has written; calls no model.

The page holds texts of models and people. In the page they are data (compressed, base64), and become
text nodes only; in the parts made here Jinja escapes them.
"""
