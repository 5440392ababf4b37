"""Passwords and one-time codes."""

import pyotp
import pytest

from tutelage.label.passwords import (
    LEAST,
    MOST,
    hash_password,
    is_password,
    new_totp_secret,
    totp_address,
    totp_step,
    weakness,
)

GOOD = "four plain unrelated words"


def test_a_password_is_known_again_and_no_other_is():
    hashed = hash_password(GOOD)
    assert hashed.startswith("$argon2id$") and GOOD not in hashed and hash_password(GOOD) != hashed
    assert is_password(GOOD, hashed)
    for other in ("", GOOD + " ", GOOD.upper(), GOOD[:-1], "\x00"):
        assert not is_password(other, hashed)


@pytest.mark.parametrize("hashed", [None, "", "plain", "$argon2id$broken", GOOD])
def test_what_is_no_hash_opens_nothing(hashed):
    assert not is_password(GOOD, hashed)
    assert not is_password("nobody's password", hashed)  # what an account that is not there is checked against


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", f"at least {LEAST}"),
        ("x" * (LEAST - 1), f"at least {LEAST}"),
        ("x1" * MOST, f"at most {MOST}"),
        ("aaaabbbbccccdddd", "easy to guess"),
        ("marianne-marianne", "easy to guess"),  # the address, and a hyphen
        ("MARIANNE2026", "easy to guess"),
    ],
)
def test_a_weak_password_is_told_why(password, why):
    assert why in weakness(password, "marianne@example.org")


@pytest.mark.parametrize("email", ["a@example.org", "late@example.org", "@", "words@example.org"])
def test_a_long_password_is_not_weak_for_holding_a_short_name_somewhere(email):
    assert weakness(GOOD, email) is None


def test_a_code_belongs_to_its_step_and_its_neighbours():
    secret, now = new_totp_secret(), 1_800_000_000.0
    code = pyotp.TOTP(secret).at(int(now))
    step = int(now) // 30
    # 1_800_000_000 is the first second of a step: it is still known 59 seconds later, and 30 seconds before.
    for offset, found in ((0, step), (29, step), (59, step), (60, None), (-1, step), (-30, step), (-31, None)):
        assert totp_step(secret, code, now + offset) == found, offset


def test_a_code_may_have_spaces_and_nothing_else():
    secret, now = new_totp_secret(), 1_800_000_000.0
    code = pyotp.TOTP(secret).at(int(now))
    assert totp_step(secret, f" {code[:3]} {code[3:]} ", now) is not None
    for wrong in ("", code[:-1], code + "0", "-" + code, "１" * 6, "\x00"):
        assert totp_step(secret, wrong, now) is None


def test_secrets_are_long_and_differ():
    made = {new_totp_secret() for _ in range(50)}
    assert len(made) == 50 and all(len(s) == 32 for s in made)
    assert totp_address("A" * 32, "a b@example.org").startswith("otpauth://totp/tutelage:a%20b%40example.org?secret=")
