"""How a model is served: where it listens, who may ask, and how much."""

from dataclasses import dataclass

from tutelage.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of the server; what is drawn and how stands in each request."""

    host: str = "127.0.0.1"
    port: int = 8585
    key: str = ""  # what clients send as `Authorization: Bearer …`; empty: nobody is asked, on loopback alone
    max_tokens: int = 1024  # of one answer
    max_n: int = 8  # answers to one request
    max_body_kb: int = 256
    waiting: int = 8  # requests at once, the one in work included; more are told to come back
    tokenise_s: float = 5.0  # in which a prompt must become tokens

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.key:
            raise ConfigError(
                f"serve.host = {self.host!r} listens beyond this machine, but there is no key: anybody could use the "
                f"model. Set the variable that --key-env names, or keep 127.0.0.1."
            )
        if self.key and (len(self.key) < 16 or any(not "!" <= c <= "~" for c in self.key)):
            raise ConfigError("the key has fewer than 16 characters, or one that no header bears. Make a longer one.")
        if min(self.max_tokens, self.max_n, self.max_body_kb, self.waiting) < 1 or self.tokenise_s <= 0:
            raise ConfigError("serve: max_tokens, max_n, max_body_kb, waiting and tokenise_s must be above 0.")

    @property
    def is_local(self) -> bool:
        return self.host in LOOPBACK
