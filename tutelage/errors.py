"""Every error that tutelage raises on purpose. Catch TutelageError to catch them all.

A message says what was found, where it was found, why that cannot work, and what to do. The command line prints the
message alone and ends with `exit_code`: 2 for what its user can mend (wrong use, bad input, a full disk, a run that
would be wasted), 3 for a run directory in use, 1 for the rest.
"""


class TutelageError(Exception):
    """Says what was found, where it was found, and what to do about it."""

    exit_code = 1


class ConfigError(TutelageError, ValueError):
    """A setting that cannot be used as it stands."""

    exit_code = 2


class DataError(TutelageError, ValueError):
    """A file or row of data that cannot be used as it stands."""

    exit_code = 2


class ModelError(TutelageError, ValueError):
    """A model folder, tokenizer or chat template that cannot be used as it stands."""

    exit_code = 2


class StoreError(TutelageError, ValueError):
    """A fact that the feedback store refuses, or a store that cannot be opened."""

    exit_code = 2


class BusyError(StoreError):
    """Somebody else kept the store locked for longer than one waits. The same again may work a moment later."""


class ConflictError(StoreError):
    """What is asked no longer fits what the store holds: somebody was faster, or the same key said something else."""


class CorruptError(TutelageError, ValueError):
    """A published folder whose files do not match its manifest."""

    exit_code = 2


class RunInUseError(TutelageError, RuntimeError):
    """Another process owns the run directory."""

    exit_code = 3


class DiskError(TutelageError, OSError):
    """The disk refused a write; nothing half written stays behind."""

    exit_code = 2


class TrainingError(TutelageError, RuntimeError):
    """Training stopped because going on would waste the run: not-a-number, a broken ratio, an abort alarm."""

    exit_code = 2


class WaitingForLabels(TutelageError, RuntimeError):
    """The run can go on only when people have judged more completions. Not a failure: the command ends with 0."""

    exit_code = 0
