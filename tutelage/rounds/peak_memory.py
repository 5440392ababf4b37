"""The most memory that was held since one last asked: of this process, or of the GPU that a model lies on.

Knows no phase and no model.
"""

import re
from pathlib import Path

import torch

OWN = Path("/proc/self")
RESET_PEAK = "5"  # written to clear_refs; proc_pid_clear_refs(5)


class PeakMemory:
    """Asking sets the peak back, and `getrusage` forgets it, too; so what the process held at most is kept here.

    device  "cuda": what torch has allocated there. Otherwise the resident set: its peak where Linux lets us set that
            back, and elsewhere what is held at the moment of asking
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.most_resident = resident(at_most=True)  # bytes, ever
        self._sets_back = device.type != "cuda" and _set_back()
        self.meaning = (
            "allocated on the GPU at most"
            if device.type == "cuda"
            else "resident set at most"
            if self._sets_back
            else "resident set at the end of a phase"
        )

    def __call__(self) -> int:
        """Bytes."""
        if self._device.type == "cuda":
            found = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            found = resident(at_most=self._sets_back)
            self.most_resident = max(self.most_resident, found)
            if self._sets_back:
                _set_back()
        return found


def resident(*, at_most: bool = False) -> int:
    """Bytes of this process that lie in memory now, or at most since the peak was last set back; 0 where unknown."""
    if not (OWN / "status").is_file():
        return 0
    found = re.search(rf"{'VmHWM' if at_most else 'VmRSS'}:\s*(\d+)", (OWN / "status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 0


def _set_back() -> bool:
    """Whether the system let us."""
    try:
        (OWN / "clear_refs").write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
