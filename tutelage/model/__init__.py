"""Models: loading, packed attention, chat rendering, heads, LoRA and checkpoints.

Knows no data set, loop or sampler.
"""
