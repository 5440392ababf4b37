"""What is understood of a request, what is refused by name, and the shape of what is answered."""

import pytest
from pydantic import ValidationError

from tutelage.serve.wire import ChatRequest, FeedbackRequest, completion, piece
from tutelage.types import Message

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}


def test_parts_are_joined_and_the_developers_role_is_the_systems():
    asked = ChatRequest.model_validate(
        ASKED
        | {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "One, "}, {"type": "text", "text": "two."}]},
            ]
        }
    )
    assert [line.message() for line in asked.messages] == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="One, two."),
    ]


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, ""),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "url": "x"}]}]}, "content"),
        ({"stop": ["\n"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"tools": []}, "tools"),
        ({"n": 0}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_would_change_the_answer_and_is_not_understood_is_refused(changed, where):
    with pytest.raises(ValidationError) as e:
        ChatRequest.model_validate(ASKED | changed)
    assert not where or any(where in error["loc"] for error in e.value.errors())


def test_the_newer_name_of_the_limit_goes_before_the_older():
    def wanted(**changed):
        return ChatRequest.model_validate(ASKED | changed).wanted_tokens

    assert (wanted(), wanted(max_tokens=5), wanted(max_tokens=5, max_completion_tokens=3)) == (None, 5, 3)


@pytest.mark.parametrize("changed", [{"value": 0}, {"completion_id": "x"}, {"reasons": [""]}, {"key": "a b"}, {"x": 1}])
def test_a_thumb_is_up_or_down_on_a_completion(changed):
    good = {"completion_id": "0123456789abcdef0123", "value": 1}
    assert FeedbackRequest.model_validate(good).reasons == ()
    with pytest.raises(ValidationError):
        FeedbackRequest.model_validate(good | changed)


def test_tokens_add_up_and_each_choice_names_its_completion():
    made = completion("7", 12, "m", [("a", "stop", "c0"), ("b", "length", "c1")], prompt_tokens=5, tokens=3)
    assert made["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert [(c["index"], c["message"]["content"], c["finish_reason"], c["completion_id"]) for c in made["choices"]] == [
        (0, "a", "stop", "c0"),
        (1, "b", "length", "c1"),
    ]
    first, last = piece("7", 12, "m", 1, {"content": "b"}), piece("7", 12, "m", 1, {}, "length", "c1")
    assert first["id"] == last["id"] == made["id"] and "completion_id" not in first["choices"][0]
    assert (last["choices"][0]["finish_reason"], last["choices"][0]["completion_id"]) == ("length", "c1")
