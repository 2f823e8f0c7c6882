"""Mathematics in texts: final answers, equality, steps, arithmetic with worked solutions, known errors.

May import core. No model and no sample has a part in it.
"""
