"""Readers and writers of what the field uses for feedback. Knows files and `types`; no store, no torch."""
