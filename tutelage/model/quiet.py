"""Standard error is ours: `transformers` neither draws bars nor warns there. What matters becomes an error of ours."""

from transformers.utils import logging


def quieten() -> None:
    """Called by whatever opens or writes a model, so that importing a module changes nothing by itself."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
