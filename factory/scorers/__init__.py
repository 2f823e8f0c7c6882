"""What gives a number to an answer: judges, reward models, process reward models, verifiers, rules, rollouts.

May import stages, sources and what is below them.
"""
