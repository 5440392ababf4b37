"""Signing in elsewhere: OpenID Connect, authorization code with PKCE. It replaces the password, not the invitation.

State, nonce and verifier travel in a sealed cookie of ten minutes; the ID token's signature, issuer, audience, expiry
and nonce are checked, with fixed algorithms.
"""

import base64
import hashlib
import json
import os
import secrets
import time
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

COOKIE = "tutelage_oidc"
SECONDS = 600
ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA"]


def _provider(app: App) -> dict[str, Any]:
    if not app.config.oidc.issuer:
        raise Refused(404, "Signing in elsewhere is not set up here.")
    at = resolve(app.config.oidc.issuer, private=app.config.private_endpoints)
    found: dict[str, Any] = call_json(at, "/.well-known/openid-configuration", None, {})
    needed = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
    if any(name not in found for name in needed) or found["issuer"].rstrip("/") != app.config.oidc.issuer.rstrip("/"):
        raise DataError(
            f"{app.config.oidc.issuer} does not describe itself as an OpenID provider. Check label.oidc.issuer."
        )
    return found


def start(who: Caller, invite: str) -> Response:
    """Sends the browser to the provider."""
    app, provider = who.app, _provider(who.app)
    verifier = secrets.token_urlsafe(48)
    kept = {
        "state": secrets.token_urlsafe(24),
        "nonce": secrets.token_urlsafe(24),
        "verifier": verifier,
        "invite": invite,
    }
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
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
    response = RedirectResponse(f"{provider['authorization_endpoint']}?{query}", status_code=303)
    sealed = app.keys.seal(json.dumps({**kept, "until": time.time() + SECONDS}))
    response.set_cookie(COOKIE, sealed, max_age=SECONDS, httponly=True, samesite="lax", secure=app.config.is_secure)
    return response


def finish(who: Caller, code: str, state: str) -> Account:
    """The account of the person whom the provider vouches for. Raises Refused when there is none."""
    app, cookies = who.app, who.request.cookies
    opened = app.keys.unseal(cookies[COOKIE]) if COOKIE in cookies else None
    kept = json.loads(opened) if opened else {}
    if not kept or kept["until"] < time.time() or not secrets.compare_digest(kept["state"], state):
        raise Refused(403, "This sign-in has run out. Start again.")
    provider = _provider(app)
    claims = _claims(app, provider, code, kept)
    subject = f"{claims['iss']}|{claims['sub']}"
    account = account_by_oidc(app.store, subject)
    if account is not None:
        return account
    email = str(claims["email"]) if "email" in claims and claims.get("email_verified") is True else ""
    if not email:
        raise Refused(403, "The provider does not vouch for an e-mail address of yours. Ask its operator.")
    if kept["invite"]:
        return get_account(app.store, accept_invite(app.store, kept["invite"], email=email, oidc_subject=subject))
    known = account_by_email(app.store, email)
    if known is None or known.state != "active":
        raise Refused(403, "You have no account here yet. Open the invitation that you were sent.")
    change_account(app.store, known.id, oidc_subject=subject)
    return known


def _claims(app: App, provider: dict[str, Any], code: str, kept: dict[str, Any]) -> dict[str, Any]:
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
        registry = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": provider["issuer"]},
            aud={"essential": True, "value": oidc.client_id},
            exp={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": kept["nonce"]},
        )
        registry.validate(token.claims)
    except (JoseError, KeyError, TypeError, ValueError) as e:
        raise Refused(403, "The provider's answer could not be verified. Start again.") from e
    return dict(token.claims)
