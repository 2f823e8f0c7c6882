"""The command line. `main` has the commands that make data and train, `scores` those that score."""
