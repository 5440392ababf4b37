"""Signing in elsewhere, against a provider on loopback that speaks TLS and signs what it is told to sign."""

import base64
import dataclasses
import datetime
import hashlib
import hmac
import http.server
import ipaddress
import json
import ssl
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import RSAKey

from tutelage.label.config import OidcConfig
from tutelage.store.accounts import account_by_email, change_account, get_account
from tutelage.store.projects import invite, roles_of

KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})
OTHER = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})
RS512 = RSAKey.import_key({**KEY.as_dict(private=True), "alg": "RS512"})
PUBLIC = KEY.as_dict(private=False)
WHO = {"sub": "u-1", "email": "ann@example.org", "email_verified": True}


class Provider:
    """An OpenID provider whose every answer a test can bend."""

    def __init__(self):
        self.port = 0
        self.claims = dict(WHO)
        self.bend = lambda claims: claims
        self.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "k1"}, claims, KEY)
        self.about, self.keys, self.tokens = {}, {"keys": [PUBLIC]}, []
        self.nonce, self.challenge = "", ""

    @property
    def issuer(self):
        return f"https://127.0.0.1:{self.port}"

    def answer(self, path, form):
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token/", "jwks_uri": f"{self.issuer}/keys", **self.about,
            }  # fmt: skip
        if path == "/keys":
            return self.keys
        self.tokens.append({name: values[0] for name, values in form.items()})
        assert path == "/token/", path
        now = int(self.now().timestamp())
        claims = {
            "iss": self.issuer, "aud": "tutelage", "iat": now, "exp": now + 300, "nonce": self.nonce, **self.claims,
        }  # fmt: skip
        return {"id_token": self.sign(self.bend(claims)), "token_type": "Bearer"}


def certificate(folder):
    """A certificate of 127.0.0.1 that signs itself, and where its two halves lie."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    day = datetime.timedelta(days=1)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    built = built.add_extension(san, False).add_extension(x509.BasicConstraints(True, None), True)
    made = built.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def provider(house, tmp_path, monkeypatch):
    """A provider that the house trusts, reached over TLS."""
    cert, key = certificate(tmp_path)
    found = Provider()
    found.now = house.clock

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers["Content-Length"] or 0)
            form = parse_qs(self.rfile.read(length).decode()) if length else {}
            data = json.dumps(found.answer(self.path, form)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, key)
        running.socket = tls.wrap_socket(running.socket, server_side=True)
        found.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        monkeypatch.setenv("TUTELAGE_OIDC_SECRET", "the-secret")
        oidc, private = OidcConfig(issuer=found.issuer, client_id="tutelage"), (f"127.0.0.1:{found.port}",)
        config = dataclasses.replace(house.config, oidc=oidc, private_endpoints=private)
        house.app.state.label = dataclasses.replace(house.app.state.label, config=config)
        house.without_limits()
        yield found
        running.shutdown()
        thread.join(timeout=10)


def start(client, provider, invite=""):
    """Goes to the provider; returns what was asked of it."""
    there = client.get("/oidc/start", params={"invite": invite} if invite else {})
    assert there.status_code == 303, there.text
    at = urlsplit(there.headers["location"])
    asked = {name: values[0] for name, values in parse_qs(at.query).items()}
    provider.nonce, provider.challenge = asked["nonce"], asked["code_challenge"]
    return asked


def come_back(client, provider, invite="", **query):
    asked = start(client, provider, invite)
    return client.get("/oidc/callback", params={"code": "c-1", "state": asked["state"], **query})


def is_in(client):
    return client.get("/account").status_code == 200


def test_an_invited_person_signs_in_and_comes_again(house, provider):
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    client = house.nobody()
    assert come_back(client, provider, token).headers["location"] == "/projects"
    account = account_by_email(house.store, "ann@example.org")
    assert roles_of(house.store, account.id)[house.project.id] == ("labeller", "active")
    again = house.nobody()
    assert come_back(again, provider).status_code == 303 and is_in(again)


def test_what_is_asked_of_the_provider_is_bound_to_the_browser(house, provider):
    client = house.nobody()
    asked = start(client, provider)
    assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    come_back(client, provider, token)
    sent = provider.tokens[-1]
    made = base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    assert made == provider.challenge
    assert (sent["client_secret"], sent["code"]) == ("the-secret", "c-1")


def test_a_stranger_without_invitation_stays_outside(house, provider):
    client = house.nobody()
    assert come_back(client, provider).status_code == 403
    assert not is_in(client) and account_by_email(house.store, "ann@example.org") is None


def known(house):
    return house.stranger("ann@example.org").account


@pytest.mark.parametrize("state", ["", "x", "é", "a" * 10_000])
def test_another_state_than_the_one_that_was_given_is_refused(house, provider, state):
    known(house)
    client = house.nobody()
    assert come_back(client, provider, state=state).status_code == 403
    assert not provider.tokens and not is_in(client)


def test_an_answer_without_the_browsers_cookie_is_refused(house, provider):
    # Somebody who is led to the callback by an attacker's link is not signed in as the attacker.
    known(house)
    asked = start(house.nobody(), provider)
    client = house.nobody()
    assert client.get("/oidc/callback", params={"code": "c", "state": asked["state"]}).status_code == 403
    assert not provider.tokens


def test_a_cookie_serves_once(house, provider):
    known(house)
    client = house.nobody()
    asked = start(client, provider)
    query = {"code": "c", "state": asked["state"]}
    assert client.get("/oidc/callback", params=query).status_code == 303
    assert "tutelage_oidc" not in client.cookies
    assert client.get("/oidc/callback", params=query).status_code == 403


def test_a_sign_in_that_took_too_long_is_refused(house, provider):
    known(house)
    client = house.nobody()
    asked = start(client, provider)
    house.clock.forward(601)
    assert client.get("/oidc/callback", params={"code": "c", "state": asked["state"]}).status_code == 403


@pytest.mark.parametrize("planted", ["x", "", "{}"])
def test_a_cookie_that_was_not_made_here_is_refused(house, provider, planted):
    client = house.nobody()
    client.cookies.set("tutelage_oidc", planted)
    assert client.get("/oidc/callback", params={"code": "c", "state": "s"}).status_code == 403


def test_something_else_that_was_sealed_here_is_no_cookie(house, provider):
    for sealed in ("JBSWY3DPEHPK3PXP", '"state"', "[1]", '{"state": "s"}'):
        client = house.nobody()
        client.cookies.set("tutelage_oidc", house.app.state.label.keys.seal(sealed))
        assert client.get("/oidc/callback", params={"code": "c", "state": "s"}).status_code == 403


def without(name):
    return lambda claims: {k: v for k, v in claims.items() if k != name}


def set_to(name, value):
    return lambda claims: {**claims, name: value}


ATTACKS = {
    "nonce of another sign-in": set_to("nonce", "another"),
    "no nonce": without("nonce"),
    "a list of nonces": lambda c: {**c, "nonce": [c["nonce"], "another"]},
    "audience of another app": set_to("aud", "another"),
    "no audience": without("aud"),
    "for us and another, meant for the other": lambda c: {**c, "aud": ["tutelage", "another"], "azp": "another"},
    "for us and another, without a word for whom": set_to("aud", ["tutelage", "another"]),
    "meant for another": set_to("azp", "another"),
    "issuer of another": set_to("iss", "https://another.example"),
    "no issuer": without("iss"),
    "run out": lambda c: {**c, "exp": c["iat"] - 120},
    "no end": without("exp"),
    "end that is no number": set_to("exp", "tomorrow"),
    "not yet valid": lambda c: {**c, "nbf": c["iat"] + 3600},
    "made in the future": lambda c: {**c, "iat": c["iat"] + 3600},
    "no subject": without("sub"),
    "empty subject": set_to("sub", ""),
    "subject that is no text": set_to("sub", 7),
}


@pytest.mark.parametrize("bend", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_token_that_is_not_meant_so_is_refused(house, provider, bend):
    known(house)
    provider.bend = bend
    client = house.nobody()
    assert come_back(client, provider).status_code == 403
    assert provider.tokens and not is_in(client)


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(claims):
    return f"{part({'alg': 'none'})}.{part(claims)}."


def by_the_public_key(claims):
    """The old confusion: what everybody may read, taken for the secret of an HMAC."""
    body = f"{part({'alg': 'HS256', 'kid': 'k1'})}.{part(claims)}"
    made = hmac.new(KEY.as_pem(private=False), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def cut(claims):
    return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, KEY).rsplit(".", 1)[0] + "."


def changed(claims):
    head, _, signature = jwt.encode({"alg": "RS256", "kid": "k1"}, claims, KEY).split(".")
    return f"{head}.{part({**claims, 'sub': 'owner'})}.{signature}"


FORGERIES = {
    "signed by nobody": unsigned,
    "without its signature": cut,
    "changed after it was signed": changed,
    "signed by another key of the same name": lambda c: jwt.encode({"alg": "RS256", "kid": "k1"}, c, OTHER),
    "signed with the public key as a secret": by_the_public_key,
    "of an unknown key": lambda c: jwt.encode({"alg": "RS256", "kid": "k9"}, c, OTHER),
    "by an algorithm that is not taken": lambda c: jwt.encode(
        {"alg": "RS512", "kid": "k1"}, c, RS512, algorithms=["RS512"]
    ),
    "no token": lambda c: "nonsense",
    "a number": lambda c: 7,
    "nothing": lambda c: None,
}


@pytest.mark.filterwarnings("ignore:.*:joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("sign", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_token_is_refused(house, provider, sign):
    known(house)
    provider.sign = sign
    client = house.nobody()
    assert come_back(client, provider).status_code == 403
    assert provider.tokens and not is_in(client)


def test_the_clocks_may_differ_by_less_than_a_minute(house, provider):
    known(house)
    provider.bend = lambda c: {**c, "iat": c["iat"] + 30, "exp": c["iat"] - 30}
    client = house.nobody()
    assert come_back(client, provider).status_code == 303 and is_in(client)


@pytest.mark.parametrize("keys", [{}, [], {"keys": []}, {"keys": [7]}, {"keys": "x"}, 7])
def test_keys_that_are_none_are_refused(house, provider, keys):
    provider.keys = keys
    assert come_back(house.nobody(), provider).status_code == 403


@pytest.mark.parametrize(
    "about",
    [{"issuer": "https://another.example"}, {"issuer": 7}, {"token_endpoint": None}, {"jwks_uri": ["x"]},
     {"authorization_endpoint": "http://127.0.0.1/a"}, {"authorization_endpoint": "javascript:alert(1)"}],
)  # fmt: skip
def test_a_provider_that_describes_itself_otherwise_is_not_asked(house, provider, about):
    provider.about = about
    assert house.nobody().get("/oidc/start").status_code == 422


def test_a_provider_cannot_send_the_code_and_secret_into_this_network(house, provider):
    known(house)
    client = house.nobody()
    asked = start(client, provider)
    provider.about = {"token_endpoint": "https://169.254.169.254/latest"}
    answer = client.get("/oidc/callback", params={"code": "c", "state": asked["state"]})
    assert answer.status_code == 422 and not is_in(client)


@pytest.mark.parametrize("vouched", [False, "true", 1, None])
def test_an_address_that_the_provider_does_not_vouch_for_opens_no_account(house, provider, vouched):
    known(house)
    provider.claims["email_verified"] = vouched
    client = house.nobody()
    assert come_back(client, provider).status_code == 403 and not is_in(client)


def test_an_address_that_changed_hands_opens_nobodys_account(house, provider):
    account = known(house)
    assert come_back(house.nobody(), provider).status_code == 303
    provider.claims["sub"] = "u-2"  # another person now has Ann's address at the provider
    client = house.nobody()
    assert come_back(client, provider).status_code == 403 and not is_in(client)
    assert get_account(house.store, account.id).oidc_subject == f"{provider.issuer}|u-1"


def test_an_account_with_a_one_time_code_is_not_opened_without_it(house, provider):
    change_account(house.store, known(house).id, totp_secret="sealed")
    client = house.nobody()
    assert come_back(client, provider).status_code == 403 and not is_in(client)


def test_a_closed_account_stays_closed(house, provider):
    account = known(house)
    assert come_back(house.nobody(), provider).status_code == 303
    change_account(house.store, account.id, state="closed")
    client = house.nobody()
    assert come_back(client, provider).status_code == 403 and not is_in(client)


def test_somebody_who_is_known_joins_a_second_project_by_its_invitation(house, provider):
    account = known(house)
    other = house.another_project()
    token = invite(house.store, other.id, "reviewer", seconds=60)
    assert come_back(house.nobody(), provider, token).status_code == 303
    assert roles_of(house.store, account.id)[other.id] == ("reviewer", "active")


def test_an_invitation_that_ran_out_lets_nobody_in(house, provider):
    token = invite(house.store, house.project.id, "labeller", seconds=60)
    house.clock.forward(61)
    client = house.nobody()
    assert come_back(client, provider, token).status_code == 422 and not is_in(client)


def test_over_tls_the_cookie_has_a_name_that_nobody_else_can_plant(house, provider):
    label = house.app.state.label
    config = dataclasses.replace(label.config, public_url="https://label.example.org")
    house.app.state.label = dataclasses.replace(label, config=config)
    set_cookie = house.nobody().get("/oidc/start").headers["set-cookie"]
    assert set_cookie.startswith("__Host-tutelage_oidc=")
    assert all(word in set_cookie for word in ("Secure", "HttpOnly", "Path=/")) and "Domain" not in set_cookie


def test_without_a_provider_there_is_nothing_to_start(house):
    assert house.nobody().get("/oidc/start").status_code == 404
    assert house.nobody().get("/oidc/callback", params={"code": "c", "state": "s"}).status_code in (403, 404)
