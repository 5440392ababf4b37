"""From facts to token batches: packing, demonstrations, comparisons, prompt streams, imports. Knows no model."""
