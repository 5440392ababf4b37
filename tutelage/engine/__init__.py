"""Sampling: continuous batching over slots, one prefill a prompt, log-probabilities as they are drawn. Knows no text."""
