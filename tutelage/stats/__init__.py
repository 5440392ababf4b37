"""Statistics of labels, models and runs, in numpy alone; no torch, no model, no file."""
