"""Coming in and going out: the first owner, signing in, invitations, one's own account."""

from typing import Annotated

import segno
from fastapi import Depends, Form, Response
from markupsafe import Markup

from tutelage.label import oidc
from tutelage.label.access import PUBLIC, SIGNED_IN, App, Caller, Refused, Routes, caller
from tutelage.label.limits import RateLimit
from tutelage.label.passwords import (
    hash_password,
    is_password,
    new_totp_secret,
    totp_address,
    totp_step,
    weakness,
)
from tutelage.label.render import go, page
from tutelage.store.access import note
from tutelage.store.accounts import (
    OWNER_LINK,
    Account,
    account_by_email,
    change_account,
    close_session,
    close_sessions,
    create_first_owner,
    get_account,
    get_setting,
    has_owner,
    open_session,
    token_hash,
    use_totp_step,
)
from tutelage.store.projects import accept_invite, look_up_invite, projects

routes = Routes()
Who = Annotated[Caller, Depends(caller)]
Text = Annotated[str, Form(max_length=400)]
THEMES = ("auto", "light", "dark")


def limit(app: App, who: Caller, what: str) -> None:
    """One bucket for each address of the network and each name that is tried."""
    limits: RateLimit = app.sign_ins
    limits.take(f"{who.request.client.host if who.request.client else ''}|{what}")


def with_session(app: App, account: Account, response: Response) -> Response:
    """Signs the browser in: a new token every time, so that a planted one is worth nothing."""
    seconds = app.config.session_hours * 3600
    response.set_cookie(
        app.cookie,
        open_session(app.store, account.id, seconds=seconds),
        max_age=int(seconds),
        httponly=True,
        samesite="lax",
        secure=app.config.is_secure,
        path="/",
    )
    return response


@routes.on("GET", "/", PUBLIC)
def front(who: Who) -> Response:
    if who.account_or_none is None:
        return go("/sign-in" if has_owner(who.store) else "/setup")
    return go("/projects")


@routes.on("GET", "/health", PUBLIC)
def health(who: Who) -> dict[str, bool]:
    """For a supervisor: answers when the store can be read."""
    has_owner(who.store)
    return {"ok": True}


# The first owner.


def _check_setup(who: Caller, token: str) -> None:
    limit(who.app, who, "setup")
    if has_owner(who.store) or not token or get_setting(who.store, OWNER_LINK) != token_hash(token):
        raise Refused(
            403,
            "This link is not the one that the server printed last. Look at the terminal in which `tutelage label` "
            "runs; the link works once.",
        )


@routes.on("GET", "/setup", PUBLIC)
def setup(who: Who, token: str = "") -> Response:
    _check_setup(who, token)
    return page(
        who, "join.html", title="Own this installation", token=token, action="/setup", project_name=None, email=""
    )


@routes.on("POST", "/setup", PUBLIC)
def set_up(who: Who, token: Text, email: Text, password: Text) -> Response:
    _check_setup(who, token)
    _check_new(email, password)
    account = create_first_owner(who.store, token_hash(token), email, hash_password(password))
    note(who.store, "installation owned", account_id=account.id)
    return with_session(who.app, account, go("/projects"))


def _check_new(email: str, password: str) -> None:
    if "@" not in email or len(email) > 200:
        raise Refused(422, f"{email!r} is no e-mail address. Go back and mend it.")
    weak = weakness(password, email)
    if weak:
        raise Refused(422, f"{weak} Go back and choose another.")


# Signing in and out.


@routes.on("GET", "/sign-in", PUBLIC)
def sign_in(who: Who) -> Response:
    return page(who, "sign_in.html", why="", email="", has_oidc=bool(who.app.config.oidc.issuer))


@routes.on("POST", "/sign-in", PUBLIC)
def signed_in(who: Who, email: Text, password: Text, code: Text = "") -> Response:
    limit(who.app, who, email.strip().lower())
    account = account_by_email(who.store, email)
    right = is_password(password, account.password_hash if account else None)
    if account is None or not right or account.state != "active" or not _code_is_right(who.app, account, code):
        why = "Address, password or one-time code is wrong. The code is needed once you have set one up."
        return page(who, "sign_in.html", status=401, why=why, email=email, has_oidc=bool(who.app.config.oidc.issuer))
    return with_session(who.app, account, go("/projects"))


def _code_is_right(app: App, account: Account, code: str) -> bool:
    """Right when no code is set up; else of a time step that was not used before."""
    if not account.totp_secret:
        return True
    secret = app.keys.unseal(account.totp_secret)
    step = totp_step(secret, code) if secret else None
    return step is not None and use_totp_step(app.store, account.id, step)


@routes.on("POST", "/sign-out", SIGNED_IN)
def sign_out(who: Who) -> Response:
    close_session(who.store, who.session)
    response = go("/sign-in")
    response.delete_cookie(who.app.cookie, path="/")
    return response


@routes.on("GET", "/oidc/start", PUBLIC)
def oidc_start(who: Who, invite: str = "") -> Response:
    limit(who.app, who, "oidc start")
    return oidc.start(who, invite)


@routes.on("GET", "/oidc/callback", PUBLIC)
def oidc_back(who: Who, code: str = "", state: str = "") -> Response:
    limit(who.app, who, "oidc")
    response = with_session(who.app, oidc.finish(who, code, state), go("/projects"))
    response.delete_cookie(oidc.cookie_name(who.app), path="/", secure=who.app.config.is_secure)
    return response


# Invitations.


@routes.on("GET", "/invite/{token}", PUBLIC)
def invitation(who: Who, token: str) -> Response:
    limit(who.app, who, "invite")
    found = look_up_invite(who.store, token)
    if found is None:
        raise Refused(404, "This invitation was used already or has run out. Ask for a new one.")
    project = next(p for p in projects(who.store) if p.id == found[0])
    return page(
        who, "join.html", title=f"Join {project.name}", token=token, action=f"/invite/{token}",
        project_name=project.name, email="",
    )  # fmt: skip


@routes.on("POST", "/invite/{token}", PUBLIC)
def join(who: Who, token: str, email: Text = "", password: Text = "") -> Response:
    limit(who.app, who, "invite")
    if who.account_or_none is not None:
        accept_invite(who.store, token, account_id=who.account.id)
        return go("/projects")
    _check_new(email, password)
    if look_up_invite(who.store, token) is None:  # before the slow hash
        raise Refused(404, "This invitation was used already or has run out. Ask for a new one.")
    number = accept_invite(who.store, token, email=email, password_hash=hash_password(password))
    return with_session(who.app, get_account(who.store, number), go("/projects"))


# One's own account.


@routes.on("GET", "/account", SIGNED_IN)
def own(who: Who) -> Response:
    return page(who, "account.html", qr=None, secret="", told="")


@routes.on("POST", "/account/password", SIGNED_IN)
def new_password(who: Who, old: Text, password: Text) -> Response:
    limit(who.app, who, who.account.email)
    if who.account.password_hash and not is_password(old, who.account.password_hash):
        raise Refused(403, "The old password is wrong.")
    _check_new(who.account.email, password)
    change_account(who.store, who.account.id, password_hash=hash_password(password))
    close_sessions(who.store, who.account.id)
    return with_session(who.app, who.account, go("/account"))


@routes.on("POST", "/account/theme", SIGNED_IN)
def theme(who: Who, theme: Text) -> Response:
    if theme not in THEMES:
        raise Refused(422, f"{theme!r} is no theme.")
    change_account(who.store, who.account.id, preferences={**who.account.preferences, "theme": theme})
    return go("/account")


def _check_no_code(who: Caller) -> None:
    """Whoever finds a browser open does not put a code of her own in place: the old one is removed by password."""
    if who.account.totp_secret:
        raise Refused(409, "A one-time code is set up already. Remove it first; that takes the password.")


@routes.on("POST", "/account/code", SIGNED_IN)
def start_code(who: Who) -> Response:
    """Shows a new secret; it counts only once a code made with it was entered."""
    _check_no_code(who)
    secret = new_totp_secret()
    picture = segno.make(totp_address(secret, who.account.email)).svg_inline(scale=4, border=2, omitsize=True)
    return page(who, "account.html", qr=Markup(picture), secret=secret, told="")


@routes.on("POST", "/account/code/confirm", SIGNED_IN)
def confirm_code(who: Who, secret: Annotated[str, Form(pattern=r"^[A-Z2-7]{32}$")], code: Text) -> Response:
    _check_no_code(who)
    step = totp_step(secret, code)
    if step is None:
        raise Refused(422, "The code does not fit. Look at the clock of your device, and start again.")
    change_account(who.store, who.account.id, totp_secret=who.app.keys.seal(secret), totp_last=step)
    note(who.store, "one-time code set up", account_id=who.account.id)
    return go("/account")


@routes.on("POST", "/account/code/remove", SIGNED_IN)
def remove_code(who: Who, password: Text) -> Response:
    limit(who.app, who, who.account.email)
    if not is_password(password, who.account.password_hash):
        raise Refused(403, "The password is wrong.")
    change_account(who.store, who.account.id, totp_secret=None)
    note(who.store, "one-time code removed", account_id=who.account.id)
    return go("/account")
