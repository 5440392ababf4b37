"""A trained model behind an OpenAI-compatible address. Knows engine and store; knows no page and no training."""
