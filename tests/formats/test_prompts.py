"""Prompts alone."""

from tutelage.formats import prompts


def test_a_prompt_may_be_named_text():
    for row in ({"prompt": "q", "source": "s"}, {"text": "q", "source": "s"}):
        (prompt,) = prompts.read(row)
        assert (prompt.messages[0].content, prompt.source) == ("q", "s")
