"""Problems with worked solutions: sums solved a step at a time, and solutions made wrong at a known
step. No model has a part in it."""
