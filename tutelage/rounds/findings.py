"""What the doctor finds: one line a check, and whether anything must be mended."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tutelage.errors import TutelageError

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Check:
    """Example: `Check("disk", "bad", "0.4 GB free at /work", "free some space, or change to another disk")`."""

    name: str
    state: State
    what: str  # was found
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def is_well(self) -> bool:
        """Whether a run can begin: warnings do not hinder it."""
        return all(c.state != "bad" for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"is_well": self.is_well, "checks": [asdict(c) for c in self.checks]}

    def text(self) -> str:
        lines = []
        for c in self.checks:
            lines.append(f"{c.state:<4}  {c.name}: {c.what}")
            lines += [f"      -> {c.todo}"] if c.todo else []
        n_bad, n_warn = (sum(c.state == state for c in self.checks) for state in ("bad", "warn"))
        verdict = "All is well." if self.is_well else f"{n_bad} must be mended before a run."
        return "\n".join([*lines, f"{verdict} {n_warn} warnings." if n_warn else verdict])


def attempt(name: str, examine: Callable[[], Sequence[Check]]) -> list[Check]:
    """The checks of a part; an error of ours becomes a bad one, since its message says what to do."""
    try:
        return list(examine())
    except TutelageError as e:
        return [Check(name, "bad", str(e))]
