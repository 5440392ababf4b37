"""Formulas of RLHF as pure functions of tensors; no model, no config, no loop."""
