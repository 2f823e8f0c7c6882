"""Code shared by the trainers: the order of a training, options, rows, checkpoints, the log."""
