"""Trainers on a fixed dataset: sft, dpo and its family, kto, reward models, process reward models."""
