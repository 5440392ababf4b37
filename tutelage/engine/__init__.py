"""Sampling: continuous batching over slots, one prefill a prompt, log-probabilities as drawn. Knows no text."""
