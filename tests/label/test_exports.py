"""Files on their way out: of one's own sources, gone once they were sent or could not be made."""

from typing import get_args

import pytest
from starlette.requests import Request

from tutelage.exchange import FORMATS
from tutelage.label.access import Caller, Refused
from tutelage.label.exports import EXPORTS, FOLDER, Export, chosen_sources, file_made


@pytest.fixture
def who(house) -> Caller:
    return Caller(house.app.state.label, Request({"type": "http"}), project_or_none=house.project, role="lead")


def test_everything_that_can_be_exported_is_offered():
    assert set(EXPORTS) == set(get_args(Export)) == set(FORMATS)


def test_without_a_choice_all_sources_but_those_of_checks_are_taken(house, who):
    house.task("compare")
    house.task("compare", question="known", source="house/made/checks", gold={"tiers": [1, 2]})
    house.task("compare", project=house.another_project(), source="elsewhere/x")
    assert chosen_sources(who, None) == ["round-1"]
    assert chosen_sources(who, ["house/made/checks", "house/made/checks"]) == ["house/made/checks"]
    assert chosen_sources(who, []) == []
    with pytest.raises(Refused, match="no source of this project"):
        chosen_sources(who, ["round-1", "elsewhere/x"])


def test_a_file_that_cannot_be_made_leaves_nothing(house, who):
    def broken(folder):
        (folder / "half").write_text("half")
        raise Refused(422, "no")

    with pytest.raises(Refused):
        file_made(who, broken)
    assert list((house.config.data / FOLDER).iterdir()) == []
