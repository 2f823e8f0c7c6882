"""Statistics: intervals, ranks, kappa, calibration, Bradley-Terry, Elo, win rates. Pure functions of numbers.

May import no other package of the factory.
"""
