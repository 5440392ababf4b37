"""How good a policy or a reward model is, with intervals. Trains nothing."""
