"""The command line. Each command loads, calls one function, and prints. READ FIRST `main.py`.

May import everything.
"""
