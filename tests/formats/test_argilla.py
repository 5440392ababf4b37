"""Argilla records."""

import pytest

from tutelage.formats import argilla
from tutelage.formats.fields import Refused

FIELDS = {"prompt": "q", "response-1": "A", "response-2": "B", "response-3": "C"}
VALUE = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}, {"value": "response-3", "rank": 2}]


@pytest.mark.parametrize(
    "responses",
    [
        {"rank": [{"value": VALUE, "user_id": "u1"}], "note": [{"value": "fine", "user_id": "u1"}]},
        [{"user_id": "u1", "status": "submitted", "values": {"rank": {"value": VALUE}}}],
    ],
    ids=["version 2", "version 1"],
)
def test_a_ranking_with_ties_is_read_from_both_versions(responses):
    (group,) = argilla.read({"id": "r", "fields": FIELDS, "responses": responses})
    assert (group.texts, group.tiers, group.labeler) == (("B", "A", "C"), (1, 2, 2), "argilla-u1")


def test_each_person_is_a_judgement_and_drafts_are_none():
    names = ["response-3", "response-1"]
    responses = {"rank": [{"value": names, "user_id": i, "status": s} for i, s in enumerate(("submitted", "draft"))]}
    (group,) = argilla.read({"fields": FIELDS, "responses": responses})
    assert (group.texts, group.tiers) == (("C", "A"), (1, 2))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"fields": FIELDS, "responses": {}}, "no ranking"),
        ({"fields": FIELDS, "responses": None}, "no responses"),
        ({"fields": FIELDS, "responses": {"r": [{"value": ["nope", "response-1"]}]}}, "an unknown option"),
        ({"fields": FIELDS, "responses": {"r": [{"value": [7]}]}}, "no ranking"),
        ({"fields": {"a": "b"}, "responses": {}}, "no prompt"),
        ({"fields": [], "responses": {}}, "no record"),
    ],
)
def test_what_is_no_ranking_is_refused(row, why):
    with pytest.raises(Refused) as e:
        list(argilla.read(row))
    assert e.value.why == why
