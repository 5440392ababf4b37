"""Passwords (argon2id) and one-time codes (TOTP, RFC 6238). Few at a time: hashing is slow on purpose."""

import threading
import time

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

LEAST = 12  # characters
MOST = 200
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's second choice: 23 ms
_ROOM = threading.BoundedSemaphore(2)  # so that a storm of sign-ins leaves a core to the others
_NOBODY = _HASHER.hash("nobody's password")  # checked when there is no account: the answer takes as long


def weakness(password: str, email: str) -> str | None:
    """Why a password will not do; None when it will. Length decides (NIST SP 800-63B)."""
    if len(password) < LEAST:
        return f"A password needs at least {LEAST} characters; a few words together are easy to remember."
    if len(password) > MOST:
        return f"A password has at most {MOST} characters."
    # What the address gives away counts for nothing; the rest must be long enough by itself.
    if len(set(password)) < 5 or len(password.lower().replace(email.split("@")[0].lower(), "")) < LEAST:
        return "This password is easy to guess. Use a few unrelated words."
    return None


def hash_password(password: str) -> str:
    with _ROOM:
        return _HASHER.hash(password)


def is_password(password: str, hashed: str | None) -> bool:
    """Whether the password is right; as slow for an account that does not exist."""
    with _ROOM:
        try:
            return bool(_HASHER.verify(hashed or _NOBODY, password)) and bool(hashed)
        except (VerificationError, InvalidHashError):
            return False


def new_totp_secret() -> str:
    return pyotp.random_base32()


def totp_address(secret: str, email: str) -> str:
    """What an authenticator app reads from the QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=email, issuer_name="tutelage")


def totp_step(secret: str, code: str, now: float | None = None) -> int | None:
    """The time step that a code belongs to, now or one step to either side; None for a wrong code."""
    totp, at = pyotp.TOTP(secret), int(now if now is not None else time.time())
    for offset in (0, -1, 1):
        step = at // totp.interval + offset
        if pyotp.utils.strings_equal(totp.at(step * totp.interval), code.strip().replace(" ", "")):
            return step
    return None
