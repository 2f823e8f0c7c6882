"""Proximal policy optimisation, ours: experience, advantages, losses, the critic."""
