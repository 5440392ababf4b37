"""How the app is started: where it listens, where it keeps its secrets, who else may sign people in."""

from dataclasses import dataclass, field
from pathlib import Path

from tutelage.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcConfig:
    """An OpenID Connect provider. People still come by invitation: it replaces the password, not the invitation."""

    issuer: str = ""  # https://…; empty: passwords only
    client_id: str = ""
    client_secret_env: str = "TUTELAGE_OIDC_SECRET"  # the environment variable that holds the secret


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Settings of the app as a whole; what is asked of people is set in each project."""

    store: str  # a path or a PostgreSQL URL
    data: Path  # secrets and uploads; made with rights for its owner alone
    host: str = "127.0.0.1"
    port: int = 8484
    public_url: str = ""  # https://label.example.org, behind a proxy that speaks TLS
    run: Path | None = None  # the run directory whose rounds wait for these labels
    session_hours: float = 12.0
    max_upload_mb: int = 64
    private_endpoints: tuple[str, ...] = ()  # host:port of model servers on private addresses that may be called
    oidc: OidcConfig = field(default_factory=OidcConfig)

    def __post_init__(self) -> None:
        if self.public_url and not self.public_url.startswith("https://"):
            raise ConfigError(
                f"label.public_url = {self.public_url!r} is not https: passwords would cross the network in the clear. "
                f"Put a proxy that speaks TLS in front and give its https address."
            )
        if self.host not in LOOPBACK and not self.public_url:
            raise ConfigError(
                f"label.host = {self.host!r} listens beyond this machine, but label.public_url is not set. Keep "
                f"127.0.0.1, or give the https address under which people reach the app."
            )
        if self.oidc.issuer and not self.oidc.issuer.startswith("https://"):
            raise ConfigError(
                f"label.oidc.issuer = {self.oidc.issuer!r} is not https. Give the provider's https address."
            )

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the app over TLS, so that cookies can be bound to it."""
        return bool(self.public_url)

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"
