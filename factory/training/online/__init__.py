"""Trainers that draw their own answers, by TRL: grpo and its family, rloo; and their rewards."""
