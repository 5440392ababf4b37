"""Watches an RL run: each detector names what it saw, the likely cause, and whether to warn, stop or abort.

A detector is a pure function of the metrics so far (`detectors.py`); this file runs them and acts on what they say.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from tutelage.errors import TrainingError
from tutelage.train.detectors import (
    AFTER_UPDATE,
    BEFORE_UPDATE,
    FIRST_MINIBATCH,
    SAMPLER_MISMATCH,
    Alarm,
    Detector,
    Metrics,
    Window,
)
from tutelage.train.experience import Experience

OF_THE_SAMPLED = ("entropy", "mismatch_mean", "max_mismatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """Limits that a recipe may move; all other thresholds are constants beside their detectors."""

    kl_target: float = 6.0  # nats a sequence
    ratio_tolerance: float = 1e-4  # of |ratio - 1| before the first step; 0.02 for bf16 passes
    mismatch_tolerance: float = 0.01  # nats, mean |sampler - learner|; 0.05 for bf16 passes
    ignore: tuple[str, ...] = ()  # detectors that may only warn, by name


@dataclass(slots=True)
class Monitor:
    """Runs the detectors at their moments and keeps every alarm."""

    config: MonitorConfig
    report: Callable[[Alarm], None]
    alarms: list[Alarm] = field(default_factory=list)
    first: Metrics = field(default_factory=dict)  # metrics of the first update: the reference's own behaviour
    _sums: Metrics = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def resume(self, history: Sequence[Metrics]) -> None:
        """After a kill, "at first" still means the run's first update."""
        if history:
            self.first = dict(history[0])

    def before_update(self, step: int, metrics: Metrics, seen: Experience) -> None:
        """Looks at fresh rollouts. Raises TrainingError when going on would be wrong."""
        self._sums, self._counts = {}, {}
        if not self.first:
            self.first = dict(metrics)
        self._run(
            BEFORE_UPDATE, Window(step, metrics, [], self.first, self.config.kl_target, self.config.mismatch_tolerance)
        )

    def after_minibatch(self, step: int, epoch: int, i: int, found: Metrics) -> Metrics:
        """Returns the mean of the update's metrics so far. Raises TrainingError when the first ratio is not 1.

        What a pass says of the policy that sampled is taken from the first alone, before any step.
        """
        # What is not finite was skipped and counted as such; here it would hide the figures of the other minibatches.
        found = {name: value for name, value in found.items() if math.isfinite(value)}
        if epoch == 0 and i == 0:
            self._run(
                FIRST_MINIBATCH, Window(step, found, [], self.first, self.config.kl_target, self.config.ratio_tolerance)
            )
            self._run(
                [SAMPLER_MISMATCH],
                Window(step, found, [], self.first, self.config.kl_target, self.config.mismatch_tolerance),
            )
        else:
            found = {name: value for name, value in found.items() if name not in OF_THE_SAMPLED}
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts[name] + 1 if name in self._counts else 1
        return {name: value / self._counts[name] for name, value in self._sums.items()}

    def after_update(self, step: int, history: Sequence[Metrics]) -> str:
        """Looks at the course of the run. Returns why it should stop, or nothing."""
        window = Window(step, history[-1], history, self.first, self.config.kl_target, self.config.mismatch_tolerance)
        stops = [a for a in self._run(AFTER_UPDATE, window) if a.action == "stop"]
        return f"{stops[0].name}: {stops[0].saw}" if stops else ""

    def _run(self, detectors: Sequence[Detector], window: Window) -> list[Alarm]:
        raised = []
        for detector in detectors:
            alarm = detector.look(window)
            if alarm is None:
                continue
            if alarm.name in self.config.ignore:
                alarm = Alarm(**{**asdict(alarm), "action": "warn"})
            self.alarms.append(alarm)
            self.report(alarm)
            raised.append(alarm)
            if alarm.action == "abort":
                raise TrainingError(
                    f"update {alarm.step}, {alarm.name}: {alarm.saw}. Likely cause: {alarm.cause}. {alarm.advice}"
                )
        return raised
