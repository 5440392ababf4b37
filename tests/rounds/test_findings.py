"""What the doctor says: a warning hinders nothing, and an error of ours is a finding."""

import pytest

from tutelage.errors import DataError
from tutelage.rounds.findings import Check, Findings, attempt

OK, WARN, BAD = Check("a", "ok", "1"), Check("b", "warn", "2", "do x"), Check("c", "bad", "3", "do y")


@pytest.mark.parametrize(("checks", "is_well"), [((), True), ((OK, WARN), True), ((OK, BAD), False)])
def test_only_a_bad_check_hinders_a_run(checks, is_well):
    assert Findings(checks).is_well is is_well is Findings(checks).to_json()["is_well"]


def test_each_check_is_a_line_and_what_to_do_stands_below():
    assert Findings((OK, WARN, BAD)).text() == (
        "ok    a: 1\nwarn  b: 2\n      -> do x\nbad   c: 3\n      -> do y\n1 must be mended before a run. 1 warnings."
    )
    assert Findings((OK,)).text().endswith("All is well.")


def test_an_error_of_ours_is_a_finding_and_any_other_is_a_bug():
    def fail(error):
        raise error

    assert attempt("data", lambda: fail(DataError("no row"))) == [Check("data", "bad", "no row")]
    with pytest.raises(ZeroDivisionError):
        attempt("data", lambda: 1 / 0)
