"""Coming in: the first owner, signing in, invitations, one-time codes. Over HTTP, with real passwords."""

import re

import pyotp
import pytest

from tutelage.label.app import owner_link
from tutelage.label.passwords import hash_password
from tutelage.store.accounts import account_by_email, change_account, create_account, session_account
from tutelage.store.projects import invite, members

PASSWORD = "four plain unrelated words"
HASHED = hash_password(PASSWORD)


@pytest.fixture
def anna(house):
    """An account with a password, not signed in."""
    return create_account(house.store, "anna@example.org", password_hash=HASHED)


def sign_in(house, client, email="anna@example.org", password=PASSWORD, code=""):
    return house.post(client, "/sign-in", {"email": email, "password": password, "code": code})


def session_of(client) -> str:
    return client.cookies["tutelage"]


# The first owner.


@pytest.fixture
def unowned(house):
    change_account(house.store, house.owner.account.id, is_owner=0)
    return house


def setup_token(house) -> str:
    return owner_link(house.app.state.label).partition("token=")[2]


def new_owner(token: str) -> dict[str, str]:
    return {"token": token, "email": "first@example.org", "password": PASSWORD}


def test_the_owners_link_works_once(unowned):
    token = setup_token(unowned)
    client = unowned.nobody()
    assert client.get(f"/setup?token={token}").status_code == 200
    assert unowned.post(client, "/setup", new_owner(token)).status_code == 303
    assert client.get("/projects").status_code == 200
    again = unowned.nobody()
    second = {**new_owner(token), "email": "second@example.org"}
    assert unowned.post(again, "/setup", second).status_code == 403
    assert account_by_email(unowned.store, "second@example.org") is None


def test_no_link_works_once_there_is_an_owner(house):
    assert owner_link(house.app.state.label) is None
    for token in ("", "x"):
        assert house.nobody().get(f"/setup?token={token}").status_code == 403
        assert house.post(house.nobody(), "/setup", new_owner(token or "x")).status_code in (403, 422)
    assert account_by_email(house.store, "first@example.org") is None


def test_an_older_link_is_worth_nothing_once_a_new_one_was_printed(unowned):
    old, new = setup_token(unowned), setup_token(unowned)
    assert unowned.post(unowned.nobody(), "/setup", new_owner(old)).status_code == 403
    assert unowned.post(unowned.nobody(), "/setup", new_owner(new)).status_code == 303


def test_a_link_printed_before_there_was_an_owner_dies_with_the_first_owner_from_elsewhere(unowned):
    token = setup_token(unowned)
    create_account(unowned.store, "made@example.org", is_owner=True)
    assert unowned.post(unowned.nobody(), "/setup", new_owner(token)).status_code == 403


def test_before_there_is_an_owner_nobody_can_sign_in_or_up(unowned):
    client = unowned.nobody()
    for path in ("/", "/projects"):
        assert client.get(path).status_code == 303
    assert client.get("/").headers["location"] == "/setup"
    assert sign_in(unowned, client, "admin", "admin").status_code == 401


# Signing in and out.


def test_signing_in_gives_a_session_of_its_own_kind(house, anna):
    client = house.nobody()
    answer = sign_in(house, client)
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects")
    said = answer.headers["set-cookie"]
    assert "HttpOnly" in said and "SameSite=lax" in said and "Path=/" in said and "Domain" not in said
    assert client.get("/account").status_code == 200 and "anna@example.org" in client.get("/account").text


def test_behind_tls_the_cookie_is_bound_to_the_host(label_store, tmp_path, anna):
    from starlette.testclient import TestClient

    from tutelage.label.app import create_app
    from tutelage.label.config import LabelConfig

    config = LabelConfig(store="", data=tmp_path / "tls", public_url="https://label.example.org")
    client = TestClient(create_app(config, label_store), base_url=config.address, follow_redirects=False)
    data = {"email": "anna@example.org", "password": PASSWORD}
    answer = client.post("/sign-in", data=data, headers={"sec-fetch-site": "same-origin"})
    said = answer.headers["set-cookie"]
    assert said.startswith("__Host-tutelage=") and "Secure" in said and "HttpOnly" in said and "Domain" not in said
    assert answer.headers["strict-transport-security"]


def test_a_planted_session_is_replaced_at_sign_in(house, anna):
    client = house.nobody()
    client.cookies.set("tutelage", "planted-by-somebody-else")
    sign_in(house, client)
    jar = [c.value for c in client.cookies.jar if c.name == "tutelage"]
    assert session_account(house.store, "planted-by-somebody-else") is None
    assert any((found := session_account(house.store, v)) and found.id == anna.id for v in jar)


def test_each_sign_in_is_a_new_session_that_was_not_known_before(house, anna):
    first, second = house.nobody(), house.nobody()
    sign_in(house, first)
    sign_in(house, second)
    assert session_of(first) != session_of(second) and len(session_of(first)) >= 40


def test_signing_out_ends_the_session_on_the_server(house, anna):
    client = house.nobody()
    sign_in(house, client)
    token = session_of(client)
    assert house.post(client, "/sign-out").status_code == 303
    thief = house.nobody()
    thief.cookies.set("tutelage", token)
    assert thief.get("/account").status_code == 303 and session_account(house.store, token) is None


def test_a_new_password_ends_all_other_sessions(house, anna):
    here, there = house.nobody(), house.nobody()
    sign_in(house, here)
    sign_in(house, there)
    old = session_of(here)
    other = "entirely other plain words"
    assert house.post(here, "/account/password", {"old": PASSWORD, "password": other}).status_code == 303
    assert there.get("/account").status_code == 303 and here.get("/account").status_code == 200
    assert session_account(house.store, old) is None
    assert sign_in(house, house.nobody()).status_code == 401
    assert sign_in(house, house.nobody(), password=other).status_code == 303


def test_the_old_password_is_asked_for(house, anna):
    client = house.nobody()
    sign_in(house, client)
    data = {"old": "wrong wrong wrong", "password": "entirely other plain words"}
    assert house.post(client, "/account/password", data).status_code == 403
    assert sign_in(house, house.nobody()).status_code == 303


@pytest.mark.parametrize("weak", ["short", "aaaaaaaaaaaaaaaa", "anna-anna-anna-1", "x" * 201])
def test_a_weak_password_is_refused(house, anna, weak):
    client = house.nobody()
    sign_in(house, client)
    assert house.post(client, "/account/password", {"old": PASSWORD, "password": weak}).status_code == 422


def test_a_wrong_address_and_a_wrong_password_are_told_alike(house, anna):
    unknown = sign_in(house, house.nobody(), "nobody@example.org")
    wrong = sign_in(house, house.nobody(), password="not this password")
    assert unknown.status_code == wrong.status_code == 401
    assert unknown.text.replace("nobody@", "anna@") == wrong.text


def test_a_closed_account_cannot_sign_in(house, anna):
    change_account(house.store, anna.id, state="closed")
    assert sign_in(house, house.nobody()).status_code == 401


def test_guessing_passwords_is_slowed_down(house, anna):
    tried = [sign_in(house, house.nobody(), password=f"wrong password {i}").status_code for i in range(12)]
    assert tried == [401] * 10 + [429] * 2
    answer = sign_in(house, house.nobody())  # the right one, too: it could be the next guess
    assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 10
    assert sign_in(house, house.nobody(), "other@example.org").status_code == 401  # others are not locked out


def test_guessing_the_owners_link_and_invitations_is_slowed_down(unowned):
    setup_token(unowned)
    assert [unowned.nobody().get(f"/setup?token=x{i}").status_code for i in range(11)] == [403] * 10 + [429]
    assert [unowned.nobody().get(f"/invite/x{i}").status_code for i in range(11)] == [404] * 10 + [429]


# Invitations.


def test_an_invitation_lets_one_person_in(house):
    token = invite(house.store, house.project.id, "reviewer", seconds=60)
    data = {"email": "New@Example.org ", "password": PASSWORD}
    client = house.nobody()
    assert "House" in client.get(f"/invite/{token}").text
    assert house.post(client, f"/invite/{token}", data).status_code == 303
    assert client.get(house.path("work")).status_code == 200
    again = house.post(house.nobody(), f"/invite/{token}", {**data, "email": "late@example.org"})
    assert again.status_code == 404 and account_by_email(house.store, "late@example.org") is None
    assert house.nobody().get(f"/invite/{token}").status_code == 404
    assert [(m.email, m.role) for m in members(house.store, house.project.id)] == [("new@example.org", "reviewer")]


def test_an_invitation_runs_out(house):
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    house.clock.forward(61)
    assert house.nobody().get(f"/invite/{token}").status_code == 404
    data = {"email": "late@example.org", "password": PASSWORD}
    assert house.post(house.nobody(), f"/invite/{token}", data).status_code == 404
    assert members(house.store, house.project.id) == []


def test_a_refused_sign_up_leaves_the_invitation_unused(house, anna):
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    for data in (
        {"email": "no address", "password": PASSWORD},
        {"email": "b@example.org", "password": "weak"},
        {"email": "anna@example.org", "password": PASSWORD},  # she has an account
    ):
        assert house.post(house.nobody(), f"/invite/{token}", data).status_code == 422
    right = {"email": "b@example.org", "password": PASSWORD}
    assert house.post(house.nobody(), f"/invite/{token}", right).status_code == 303


def test_who_has_an_account_joins_with_it(house):
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    who = house.stranger()
    assert who.client.get(house.path("work")).status_code == 404
    assert house.post(who.client, f"/invite/{token}").status_code == 303
    assert who.client.get(house.path("work")).status_code == 200


# One-time codes.


@pytest.fixture
def coded(house, anna):
    """A signed-in browser of an account that asks for codes, and its secret."""
    client = house.nobody()
    sign_in(house, client)
    shown = house.post(client, "/account/code").text
    secret = re.search(r'name="secret" value="([A-Z2-7]+)"', shown).group(1)
    at = pyotp.TOTP(secret)
    assert house.post(client, "/account/code/confirm", {"secret": secret, "code": at.now()}).status_code == 303
    return client, secret


def code_at(secret: str, steps: int) -> str:
    import time

    return pyotp.TOTP(secret).at(int(time.time()) + 30 * steps)


def test_a_code_is_asked_for_once_it_is_set_up(house, coded):
    _, secret = coded
    for code in ("", "000000", "12345", code_at(secret, 40)):
        assert sign_in(house, house.nobody(), code=code).status_code == 401
    assert sign_in(house, house.nobody(), code=code_at(secret, 1)).status_code == 303


def test_a_code_is_good_for_one_sign_in(house, coded):
    _, secret = coded
    code = code_at(secret, 1)
    assert sign_in(house, house.nobody(), code=code).status_code == 303
    assert sign_in(house, house.nobody(), code=code).status_code == 401
    assert sign_in(house, house.nobody(), code=code_at(secret, 0)).status_code == 401  # nor an earlier one


def test_the_code_that_set_it_up_is_used_up(house, coded):
    _, secret = coded
    assert sign_in(house, house.nobody(), code=code_at(secret, 0)).status_code == 401


def test_a_wrong_password_with_a_right_code_does_not_use_it_up(house, coded):
    _, secret = coded
    code = code_at(secret, 1)
    assert sign_in(house, house.nobody(), password="wrong wrong wrong", code=code).status_code == 401
    assert sign_in(house, house.nobody(), code=code).status_code == 303


def test_the_secret_is_sealed_in_the_store_and_not_shown_again(house, coded):
    client, secret = coded
    kept = account_by_email(house.store, "anna@example.org").totp_secret
    assert secret not in kept and house.app.state.label.keys.unseal(kept) == secret
    assert secret not in client.get("/account").text


def test_a_code_is_not_replaced_by_whoever_finds_the_browser_open(house, coded):
    client, secret = coded
    theirs = pyotp.random_base32()
    taken = house.post(client, "/account/code/confirm", {"secret": theirs, "code": pyotp.TOTP(theirs).now()})
    assert taken.status_code == 409
    assert house.post(client, "/account/code").status_code == 409
    assert house.post(client, "/account/code/remove", {"password": "wrong wrong wrong"}).status_code == 403
    assert sign_in(house, house.nobody(), code=code_at(secret, 1)).status_code == 303


def test_a_code_is_removed_with_the_password(house, coded):
    client, _ = coded
    assert house.post(client, "/account/code/remove", {"password": PASSWORD}).status_code == 303
    assert sign_in(house, house.nobody()).status_code == 303


@pytest.mark.parametrize("secret", ["", "!!!", "a", "ABCDEFGH", "é" * 32, "A" * 400])
def test_a_secret_that_the_app_did_not_make_is_refused(house, anna, secret):
    client = house.nobody()
    sign_in(house, client)
    answer = house.post(client, "/account/code/confirm", {"secret": secret, "code": "000000"})
    assert answer.status_code == 422
    assert account_by_email(house.store, "anna@example.org").totp_secret is None


# Odd input is refused, and crashes nothing.


@pytest.mark.parametrize(
    "email", ["", "\x00", "a\x00@example.org", "é" * 300 + "@x", "a@b" * 200, "' OR 1=1 --", "${7*7}"]
)
def test_odd_addresses_do_not_sign_in(house, email):
    assert sign_in(house, house.nobody(), email=email).status_code in (401, 422)


def test_a_theme_is_one_of_three(house):
    assert house.post(house.owner.client, "/account/theme", {"theme": "dark"}).status_code == 303
    assert 'data-theme="dark"' in house.owner.client.get("/account").text
    assert house.post(house.owner.client, "/account/theme", {"theme": '"><script>'}).status_code == 422


def test_signing_in_elsewhere_is_not_there_unless_it_is_set_up(house):
    assert house.nobody().get("/oidc/start").status_code == 404
    answer = house.nobody().get("/oidc/callback?code=x&state=x")
    assert answer.status_code == 403
    answer = house.nobody().get("/oidc/callback?code=x&state=é", headers={"cookie": "tutelage_oidc=x"})
    assert answer.status_code == 403
