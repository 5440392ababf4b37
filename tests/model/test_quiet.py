"""`transformers` stays silent where a model is opened or written, whatever was set before."""

import pytest
from transformers.utils import logging

from tutelage.model.checkpoint import save_causal
from tutelage.model.load import load_causal


@pytest.fixture
def loud():
    """The library's own defaults, as a fresh process has them."""
    logging.enable_progress_bar()
    logging.set_verbosity_warning()


def test_opening_and_saving_a_model_write_nothing_to_standard_error(small_folder, tmp_path, capfd, loud):
    folder = small_folder()
    capfd.readouterr()
    model, chat = load_causal(str(folder))
    assert capfd.readouterr() == ("", "")
    logging.enable_progress_bar()
    save_causal(tmp_path / "saved", model, chat, {})
    assert capfd.readouterr() == ("", "")
