"""tutelage: people's judgement of a language model's answers, turned into a better model, round after round."""

__version__ = "0.1.0"
