"""What the trainers share: the order of a training, options, rows, checkpoints, the log."""
