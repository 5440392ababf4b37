"""Facts refuse what cannot be, survive JSON, and keep their ids for ever."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from tutelage.types import (
    Adjudication,
    Completion,
    CorrectionGiven,
    Critique,
    Demonstration,
    DemonstrationGiven,
    Feedback,
    Flag,
    Judgement,
    Message,
    ModelVersion,
    Prompt,
    RankedGroup,
    Ranking,
    Rating,
    Skip,
    StoredFeedback,
    Thumb,
    digest,
)

POOL = Prompt(messages=(Message(role="user", content="Is the pool open today?"),), source="demo")


def ranking(*tiers):
    return Ranking.model_validate({"items": [{"completion_id": f"c{i}", "tier": t} for i, t in enumerate(tiers)]})


@pytest.mark.parametrize("tiers", [(1, 2), (1, 1), (2, 1, 1), (3, 1, 2, 2), tuple(range(1, 10))])
def test_tiers_without_gaps_are_a_ranking(tiers):
    assert tuple(i.tier for i in ranking(*tiers).items) == tiers


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ((1, 3), "have a gap"),
        ((2, 2), "have a gap"),
        ((1,), "at least 2"),
        ((), "at least 2"),
        ((0, 1), "greater than"),
    ],
)
def test_a_gap_one_completion_and_tier_zero_are_refused(tiers, words):
    with pytest.raises(ValidationError, match=words):
        ranking(*tiers)


def test_a_ranking_of_ten_is_refused():
    with pytest.raises(ValidationError, match="at most 9"):
        ranking(*range(1, 11))


def test_a_completion_stands_once_in_a_ranking():
    with pytest.raises(ValidationError, match="stands twice"):
        Ranking.model_validate({"items": [{"completion_id": "a", "tier": 1}, {"completion_id": "a", "tier": 2}]})


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_a_prompt_ends_with_the_user(role):
    with pytest.raises(ValidationError, match=f"this one ends with '{role}'"):
        Prompt(messages=(Message(role="user", content="Hi"), Message(role=role, content="Hello.")))


def test_a_prompt_has_a_message():
    with pytest.raises(ValidationError, match="at least 1"):
        Prompt(messages=())


@pytest.mark.parametrize(
    ("texts", "tiers", "words"),
    [
        (("a", "b"), (1, 3), "have a gap"),
        (("a",), (1,), "compares nothing"),
        (("a", "b"), (1, 2, 3), "2 texts, but 3 tiers"),
    ],
)
def test_a_ranked_group_is_checked_like_a_ranking(texts, tiers, words):
    with pytest.raises(ValidationError, match=words):
        RankedGroup(prompt=POOL, texts=texts, tiers=tiers)


def test_an_unknown_field_is_refused_and_a_fact_cannot_be_changed():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Message.model_validate({"role": "user", "content": "Hi", "name": "Ann"})
    with pytest.raises(ValidationError, match="frozen"):
        POOL.messages[0].content = "else"


def test_a_decision_is_a_ranking_that_names_what_it_decides_and_why():
    two = [{"completion_id": "a", "tier": 1}, {"completion_id": "b", "tier": 2}]
    whole = {"items": two, "decided": ["event:k1", "event:k2"], "rationale": "b is false"}
    assert [i.tier for i in Adjudication.model_validate(whole).items] == [1, 2]
    gap = [two[0], {"completion_id": "b", "tier": 3}]
    for wrong, words in (
        ({"items": gap}, "have a gap"),
        ({"items": [two[0], two[0]]}, "stands twice"),
        ({"decided": ["event:k1"]}, "at least 2"),
        ({"rationale": ""}, "at least 1 character"),
    ):
        with pytest.raises(ValidationError, match=words):
            Adjudication.model_validate(whole | wrong)


JUDGEMENTS = [
    ranking(1, 2, 2),
    Adjudication(items=ranking(1, 2).items, decided=("event:k1", "event:k2"), rationale="The first answers it."),
    Rating(completion_id="a", aspect="helpful", value=6),
    DemonstrationGiven(completion_id="a"),
    CorrectionGiven(completion_id="b", corrected_id="a"),
    Critique(completion_id="a", text="Too long: “cut it” \u2028 here", span=(0, 4)),
    Thumb(completion_id="a", value=-1, reasons=("rude",)),
    Flag(category="private data", completion_id="a"),
    Skip(reason="I cannot tell"),
]


@pytest.mark.parametrize("judgement", JUDGEMENTS, ids=lambda j: j.kind)
def test_feedback_comes_back_from_json_as_it_was(judgement):
    fact = StoredFeedback(
        seq=3,
        at="2025-01-01T00:00:00Z",
        hash="ab",
        feedback=Feedback(labeler="ann", prompt_id=POOL.id, judgement=judgement, idempotency_key="k", shown=("a", "b")),
    )
    assert StoredFeedback.model_validate_json(fact.model_dump_json()) == fact
    assert TypeAdapter(Judgement).validate_python(json.loads(judgement.model_dump_json())) == judgement


@pytest.mark.parametrize(
    "fact",
    [
        POOL,
        Completion(prompt_id="p", text="Yes.", token_ids=(5, 1), logp=(-0.1, -1e-9), finish_reason="stop", seed=2**62),
        RankedGroup(prompt=POOL, texts=("a", "b"), tiers=(1, 1), margin=0.5),
        Demonstration(prompt=POOL, text="Yes."),
        ModelVersion(id="sft-1", stage="sft", weights_sha="00"),
    ],
    ids=lambda f: type(f).__name__,
)
def test_a_fact_comes_back_from_json_as_it_was(fact):
    assert type(fact).model_validate_json(fact.model_dump_json()) == fact


def test_ids_are_the_ones_that_stores_on_disk_hold():
    # Literals, made once: another value would orphan every stored row.
    assert digest("prompt", [{"role": "user", "content": "Grüße"}]) == "9896e63e1d35311b2121"
    assert POOL.id == "39eb9ca5f43fc7b5f206"
    assert (
        Completion(prompt_id=POOL.id, text="Yes.", model_version="sft-1", seed=7, sample=2).id == "1a29388b121f9679e7f5"
    )


def test_an_id_names_the_words_and_not_where_they_came_from():
    assert POOL.model_copy(update={"source": "import"}).id == POOL.id
    one = Completion(prompt_id="p", text="Yes.")
    assert one.model_copy(update={"text": "Yes"}).id != one.id
    assert one.model_copy(update={"sample": 1}).id != one.id
    assert one.model_copy(update={"logp": (0.0,)}).id == one.id


def test_the_text_of_a_prompt_names_the_speakers():
    chat = (Message(role="system", content="Be kind."), Message(role="user", content="Hi"))
    assert Prompt(messages=chat).text == "system: Be kind.\nuser: Hi"
