"""Kernels in C++ for bf16 passes on a processor: compiled on first use, or left out. Knows no `transformers`."""
