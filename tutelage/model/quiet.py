"""Standard error is ours: `transformers` neither draws bars nor warns there. What matters becomes an error of ours."""

from typing import Any

from transformers.utils import logging

_LOGGING: Any = logging  # its functions carry no types


def quieten() -> None:
    """Called by whatever opens or writes a model, so that importing a module changes nothing by itself."""
    _LOGGING.disable_progress_bar()
    _LOGGING.set_verbosity_error()
