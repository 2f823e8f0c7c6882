"""Proximal policy optimization, ours: experience, advantages, losses, the critic."""
