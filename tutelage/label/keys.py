"""The installation's secret: made once, kept in a file that its owner alone can read. Seals keys and marks forms."""

import contextlib
import hashlib
import hmac
import os
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from tutelage.errors import ConfigError
from tutelage.publish import disk_errors

NAME = "secret.key"


def _make(path: Path) -> None:
    """Writes a new secret aside and links it into its place: others see no file or a whole one, and the first wins."""
    fd, aside = tempfile.mkstemp(prefix=NAME, dir=path.parent)  # for its owner alone
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(Fernet.generate_key())
            f.flush()
            os.fsync(f.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        os.unlink(aside)


class Keys:
    """Seals what must be kept but not shown, and makes the marks that forms carry."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        with disk_errors(str(path)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                _make(path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others. Run: chmod 600 {path}")
        key = path.read_bytes().strip()
        try:
            self._fernet = Fernet(key)
        except ValueError as e:
            raise ConfigError(
                f"{path} is not the key that was made here. Restore it from the backup; without it, sealed endpoint "
                f"keys and one-time codes are lost and must be entered again."
            ) from e
        self._mac = hashlib.sha256(b"tutelage form mark" + key).digest()

    def seal(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str | None:
        """None for what was sealed with another key."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            return None

    def form_mark(self, session: str) -> str:
        """What a form of this session carries, so that no other site can send one in its name."""
        return hmac.new(self._mac, session.encode(), hashlib.sha256).hexdigest()
