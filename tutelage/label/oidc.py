"""Signing in elsewhere: OpenID Connect, authorization code with PKCE. It replaces the password, not the invitation.

State, nonce and verifier travel in a sealed cookie of ten minutes that serves once; the ID token's signature, issuer,
audience, expiry and nonce are checked, with fixed algorithms.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.responses import RedirectResponse, Response

from tutelage.errors import DataError
from tutelage.label.access import App, Caller, Refused
from tutelage.label.outgoing import call_json, resolve
from tutelage.store.accounts import Account, account_by_email, account_by_oidc, change_account, get_account
from tutelage.store.projects import accept_invite

SECONDS = 600
LEEWAY_S = 60  # that two clocks may differ
ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA"]  # signatures by a key that only the provider has
NEEDED = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")


def cookie_name(app: App) -> str:
    """Over TLS a name that no other host, and no address without TLS, can plant."""
    return "__Host-tutelage_oidc" if app.config.is_secure else "tutelage_oidc"


def _provider(app: App) -> dict[str, str]:
    if not app.config.oidc.issuer:
        raise Refused(404, "Signing in elsewhere is not set up here.")
    issuer = app.config.oidc.issuer.rstrip("/")
    at = resolve(issuer, private=app.config.private_endpoints)
    found: Any = call_json(at, "/.well-known/openid-configuration", None, {})
    told = {name: found[name] for name in NEEDED if name in found} if isinstance(found, dict) else {}
    is_whole = len(told) == len(NEEDED) and all(isinstance(value, str) for value in told.values())
    if not is_whole or told["issuer"].rstrip("/") != issuer:
        raise DataError(
            f"{app.config.oidc.issuer} does not describe itself as an OpenID provider. Check label.oidc.issuer."
        )
    if not told["authorization_endpoint"].startswith("https://"):
        raise DataError(f"{app.config.oidc.issuer} would sign people in without https. Check label.oidc.issuer.")
    return told


def start(who: Caller, invite: str) -> Response:
    """Sends the browser to the provider."""
    app, provider = who.app, _provider(who.app)
    kept = {
        "state": secrets.token_urlsafe(24),
        "nonce": secrets.token_urlsafe(24),
        "verifier": secrets.token_urlsafe(48),
        "invite": invite[:200],
        "until": who.store.seconds() + SECONDS,
    }
    challenge = base64.urlsafe_b64encode(hashlib.sha256(str(kept["verifier"]).encode()).digest()).rstrip(b"=").decode()
    query = urlencode(
        {
            "response_type": "code",
            "client_id": app.config.oidc.client_id,
            "redirect_uri": f"{app.config.address}/oidc/callback",
            "scope": "openid email",
            "state": kept["state"],
            "nonce": kept["nonce"],
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
    )
    at = provider["authorization_endpoint"]
    response = RedirectResponse(f"{at}{'&' if '?' in at else '?'}{query}", status_code=303)
    response.set_cookie(
        cookie_name(app), app.keys.seal(json.dumps(kept)), max_age=SECONDS, httponly=True, samesite="lax",
        secure=app.config.is_secure, path="/",
    )  # fmt: skip
    return response


def finish(who: Caller, code: str, state: str) -> Account:
    """The account of the person whom the provider vouches for. Raises Refused when there is none."""
    kept = _kept(who, state)
    provider = _provider(who.app)
    claims = _claims(who.app, provider, code, kept)
    subject = f"{claims['iss']}|{claims['sub']}"
    known = account_by_oidc(who.store, subject) or _by_email(who, claims, subject)
    if known is None:
        if not kept["invite"]:
            raise Refused(403, "You have no account here yet. Open the invitation that you were sent.")
        made = accept_invite(who.store, kept["invite"], email=claims["email"], oidc_subject=subject)
        return get_account(who.store, made)
    if known.state != "active":
        raise Refused(403, "This account is closed. Ask the owner of this installation.")
    if kept["invite"]:
        accept_invite(who.store, kept["invite"], account_id=known.id)
    return known


def _kept(who: Caller, state: str) -> dict[str, Any]:
    """What `start` put into the cookie, if this is the answer to it."""
    cookies, name = who.request.cookies, cookie_name(who.app)
    opened = who.app.keys.unseal(cookies[name]) if name in cookies else None
    try:
        kept: Any = json.loads(opened) if opened else None
    except ValueError:  # something else of ours that was sealed
        kept = None
    is_ours = isinstance(kept, dict) and {"state", "nonce", "verifier", "invite", "until"} <= kept.keys()
    if not is_ours or kept["until"] < who.store.seconds() or not hmac.compare_digest(
        kept["state"].encode(), state.encode()
    ):  # fmt: skip
        raise Refused(403, "This sign-in has run out. Start again.")
    return dict(kept)


def _by_email(who: Caller, claims: dict[str, Any], subject: str) -> Account | None:
    """The account with the address that the provider vouches for, from now on with this subject. None: a new person."""
    is_vouched = "email_verified" in claims and claims["email_verified"] is True
    if not is_vouched or "email" not in claims or not isinstance(claims["email"], str) or "@" not in claims["email"]:
        raise Refused(403, "The provider does not vouch for an e-mail address of yours. Ask its operator.")
    known = account_by_email(who.store, claims["email"])
    if known is None:
        return None
    if known.oidc_subject is not None:  # an address can change hands at a provider; its subject never does
        raise Refused(403, "This address belongs to somebody else here. Ask the owner of this installation.")
    if known.totp_secret:
        raise Refused(403, "Your account asks for a one-time code. Sign in with your password and the code.")
    change_account(who.store, known.id, oidc_subject=subject)
    return get_account(who.store, known.id)


def _claims(app: App, provider: dict[str, str], code: str, kept: dict[str, Any]) -> dict[str, Any]:
    oidc, private = app.config.oidc, app.config.private_endpoints
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": f"{app.config.address}/oidc/callback",
        "client_id": oidc.client_id,
        "client_secret": os.environ[oidc.client_secret_env] if oidc.client_secret_env in os.environ else "",
        "code_verifier": kept["verifier"],
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = call_json(resolve(provider["token_endpoint"], private=private), "", urlencode(form).encode(), headers)
    keys = call_json(resolve(provider["jwks_uri"], private=private), "", None, {})
    try:
        token = jwt.decode(answer["id_token"], KeySet.import_key_set(keys), algorithms=ALGORITHMS)
        jwt.JWTClaimsRegistry(
            now=int(app.store.seconds()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": provider["issuer"]},
            aud={"essential": True, "value": oidc.client_id},
            exp={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": kept["nonce"]},
        ).validate(token.claims)
    except (JoseError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise Refused(403, "The provider's answer could not be verified. Start again.") from e
    claims = dict(token.claims)
    others = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    is_for_us = claims["azp"] == oidc.client_id if "azp" in claims else not others
    if not is_for_us or not isinstance(claims["nonce"], str):
        raise Refused(403, "The provider's answer is for somebody else. Start again.")
    return claims
