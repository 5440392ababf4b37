"""How far each labeler can be relied upon: Dawid-Skene for categories, a noisy Bradley-Terry model for comparisons.

Knows no labeler by name: H labelers, N observations. What people agree on is taken for the truth, so a majority that
is wrong together is not found out, and somebody who differs may hold a view instead of being careless. Read the
answers before acting on a figure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

Z95 = 1.959964


# Categories.


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """`confusion[h, t, g]` is the chance that labeler h gives g where t is true."""

    posterior: Array  # [n_items, C], of the true class
    confusion: Array  # [H, C, C]
    share: Array  # [C], of the true classes
    n: NDArray[np.intp]  # [H], labels given
    n_steps: int

    @property
    def right(self) -> Array:
        """[H]: the chance that a label is right, over the classes as often as they occur."""
        found: Array = np.einsum("c,hcc->h", self.share, self.confusion)
        return found


def dawid_skene(
    item: ArrayLike,
    labeler: ArrayLike,
    label: ArrayLike,
    *,
    n_classes: int,
    n_labelers: int | None = None,
    diagonal: float = 2.0,
    smoothing: float = 1.0,
    tolerance: float = 1e-8,
    max_steps: int = 1000,
) -> DawidSkene:
    """True classes of items and a confusion matrix for each labeler, by EM from the shares of the votes.

    item, labeler, label  [N], one entry a label; a label is 0 to C - 1
    diagonal              right labels of each class that every labeler is credited with beforehand
    smoothing             labels of each class and kind that every labeler is credited with beforehand, right or wrong
    tolerance             of the log posterior, a label, at which the fit has settled

    Dawid and Skene 1979, Applied Statistics 28, with Dirichlet priors: a labeler with two labels is not called perfect.
    """
    i, h, g = (np.asarray(x, dtype=np.intp) for x in (item, labeler, label))
    assert i.shape == h.shape == g.shape and i.ndim == 1 and len(i) > 0, "item, labeler and label: one entry a label"
    assert 0 <= g.min() and g.max() < n_classes, f"labels run from 0 to {n_classes - 1}"
    n_items, n_h = int(i.max()) + 1, int(h.max()) + 1 if n_labelers is None else n_labelers
    votes = np.zeros((n_items, n_classes))
    np.add.at(votes, (i, g), 1.0)
    posterior = votes / np.maximum(votes.sum(1, keepdims=True), 1)
    posterior[votes.sum(1) == 0] = 1 / n_classes
    prior = smoothing + diagonal * np.eye(n_classes)
    before = -np.inf
    for step in range(1, max_steps + 1):
        count = np.zeros((n_h, n_classes, n_classes))
        np.add.at(count, (h, slice(None), g), posterior[i])
        confusion = (count + prior) / (count + prior).sum(2, keepdims=True)
        share = (posterior.sum(0) + smoothing) / (n_items + n_classes * smoothing)
        log_joint = np.tile(np.log(share), (n_items, 1))
        np.add.at(log_joint, i, np.log(confusion)[h, :, g])
        top = log_joint.max(1, keepdims=True)
        weight = np.exp(log_joint - top)
        posterior = weight / weight.sum(1, keepdims=True)
        now = float((top[:, 0] + np.log(weight.sum(1))).sum())
        now += float((prior * np.log(confusion)).sum() + smoothing * np.log(share).sum())
        if now - before <= tolerance * len(i):
            break
        before = now
    return DawidSkene(posterior, confusion, share, np.bincount(h, minlength=n_h), step)


# Comparisons.

PRIOR = (4.0, 1.5)  # of the chance of a right choice, a beta distribution: people are attentive until shown otherwise
SPREAD = (0.3, 6.0)  # least and largest standard deviation of the scores, in nats
NODES, WEIGHTS = (np.asarray(x, dtype=np.float64) for x in np.polynomial.hermite_e.hermegauss(9))
GIVEN = WEIGHTS / WEIGHTS.sum()


def chance_better(reliability: ArrayLike, lead: ArrayLike) -> Array:
    """P(i is chosen over j) of a labeler of this reliability, where i leads j by so many nats.

    1 is a Bradley-Terry judge, 0 a coin, -1 one who turns every judgement round. The same as Bugakova et al. 2019,
    which crowd-kit's NoisyBradleyTerry fits, for f(gamma) = reliability and no bias to a side.
    """
    found: Array = 0.5 + np.asarray(reliability) * (1 / (1 + np.exp(-np.asarray(lead, np.float64))) - 0.5)
    return found


@dataclass(frozen=True, slots=True)
class NoisyBT:
    """Reliability of each labeler with its 95 % interval, and what it was judged by."""

    reliability: Array  # [H], -1 to 1; of one without comparisons that of the prior alone
    low: Array  # [H]
    high: Array  # [H]
    n: NDArray[np.intp]  # [H], comparisons on prompts that others judged too
    spread: float  # standard deviation of the scores within a prompt, nats
    n_steps: int

    @property
    def right(self) -> Array:
        """[H]: the chance to choose the better answer of two that lie far apart; .5 tells nothing."""
        return (1 + self.reliability) / 2

    @property
    def weights(self) -> Array:
        """[H], mean 1: weights of training. Nobody counts against, and where nobody counts for, all count alike."""
        kept = np.maximum(self.reliability, 0)
        found: Array = kept / kept.mean() if kept.any() else np.ones_like(kept)
        return found


@dataclass(slots=True)
class _Pairs:
    """Comparisons laid out by prompt: better and worse are places among the items of the prompt."""

    prompt: Indices
    better: Indices
    worse: Indices
    labeler: Indices
    n_prompts: int
    n_places: int  # of the prompt with the most items
    n_labelers: int


def fit_noisy_bt(
    better: ArrayLike,
    worse: ArrayLike,
    labeler: ArrayLike,
    prompt: ArrayLike,
    *,
    n_labelers: int | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 300,
) -> NoisyBT:
    """Reliability of H labelers from N comparisons without ties; see `chance_better`.

    better, worse  [N], items, each of one prompt
    labeler        [N]
    prompt         [N], from 0
    tolerance      largest change of a reliability in a step at which the fit has settled

    EM with a Gaussian for the scores of each prompt (Laplace), whose spread is fitted along; so a labeler is not
    credited for scores that her own votes have set. The sign of all together cannot be known; most are taken to be
    right. A prompt that one person alone judged says nothing and is left out. Intervals treat prompts as independent,
    not the comparisons within them.
    """
    h = np.asarray(labeler, dtype=np.intp)
    n_h = (int(h.max()) + 1 if len(h) else 0) if n_labelers is None else n_labelers
    pairs = _lay_out(np.asarray(better, np.intp), np.asarray(worse, np.intp), h, np.asarray(prompt, np.intp), n_h)
    gamma, spread, step = np.full(n_h, 2 * PRIOR[0] / sum(PRIOR) - 1), 1.5, 0
    mean = np.zeros((pairs.n_prompts, pairs.n_places))
    lead = np.zeros((len(pairs.labeler), len(NODES)))
    for step in range(1, max_steps + 1):
        if len(pairs.labeler) == 0:
            break
        mean, cov = _scores(pairs, gamma, spread, mean)
        lead = _leads(pairs, mean, cov)
        moved = _reliabilities(pairs, gamma, lead)
        present = _present(pairs)
        second = (mean**2 + np.einsum("pkk->pk", cov))[present].mean()
        spread, changed = float(np.clip(np.sqrt(second), *SPREAD)), np.abs(moved - gamma).max()
        gamma = moved
        if changed < tolerance:
            break
    n = np.bincount(pairs.labeler, minlength=n_h)
    if (gamma * n).sum() < 0:
        gamma, lead = -gamma, -lead
    half = Z95 * _errors(pairs, gamma, lead)
    return NoisyBT(gamma, np.maximum(gamma - half, -1), np.minimum(gamma + half, 1), n, spread, step)


def _lay_out(better: Indices, worse: Indices, labeler: Indices, prompt: Indices, n_labelers: int) -> _Pairs:
    assert better.shape == worse.shape == labeler.shape == prompt.shape, "one entry a comparison, four times"
    assert (better != worse).all(), "an item is compared with itself"
    judges = np.unique(np.stack([prompt, labeler]), axis=1)
    shared = np.flatnonzero(np.bincount(judges[0]) > 1) if judges.size else np.zeros(0, np.intp)
    kept = np.isin(prompt, shared)
    better, worse, labeler, prompt = better[kept], worse[kept], labeler[kept], prompt[kept]
    items, at = np.unique(np.concatenate([better, worse]), return_inverse=True)
    of = np.zeros(len(items), np.intp)
    of[at] = np.concatenate([prompt, prompt])
    assert (of[at] == np.concatenate([prompt, prompt])).all(), "an item stands in two prompts"
    _, of = np.unique(of, return_inverse=True)
    order = np.argsort(of, kind="stable")
    first = np.searchsorted(of[order], np.arange(of.max() + 1 if len(of) else 0))
    place = np.zeros(len(items), np.intp)
    place[order] = np.arange(len(items)) - first[of[order]]
    i, j = at[: len(better)], at[len(better) :]
    return _Pairs(of[i], place[i], place[j], labeler, len(first), int(place.max()) + 1 if len(place) else 0, n_labelers)


def _present(p: _Pairs) -> NDArray[np.bool_]:
    """[prompts, places]: which places hold an item."""
    found = np.zeros((p.n_prompts, p.n_places), dtype=bool)
    found[p.prompt, p.better] = found[p.prompt, p.worse] = True
    return found


def _scores(p: _Pairs, gamma: Array, spread: float, mean: Array) -> tuple[Array, Array]:
    """Mode [prompts, places] and covariance of the scores, a few steps of Fisher scoring on from `mean`."""
    g = gamma[p.labeler]
    n = p.n_prompts * p.n_places
    cov = np.zeros(0)
    for _ in range(3):
        d = mean[p.prompt, p.better] - mean[p.prompt, p.worse]
        win = 1 / (1 + np.exp(-d))
        chance = 0.5 + g * (win - 0.5)
        slope = g * win * (1 - win)
        pull, weight = slope / chance, slope**2 / (chance * (1 - chance))
        i, j = p.prompt * p.n_places + p.better, p.prompt * p.n_places + p.worse
        gradient = np.bincount(i, pull, n) - np.bincount(j, pull, n)
        precision = np.zeros((p.n_prompts, p.n_places, p.n_places))
        flat = precision.reshape(-1)
        for a, b, row, sign in ((p.better, p.better, i, 1), (p.worse, p.worse, j, 1), (p.better, p.worse, i, -1)):
            flat += sign * np.bincount(row * p.n_places + b, weight, len(flat))
            if a is not b:
                flat += sign * np.bincount(j * p.n_places + p.better, weight, len(flat))
        precision += np.eye(p.n_places) / spread**2
        cov = np.linalg.inv(precision)
        rise = gradient.reshape(mean.shape) - mean / spread**2
        mean = mean + np.clip(np.einsum("pij,pj->pi", cov, rise), -2, 2)  # a step is never wild
    return mean, cov


def _leads(p: _Pairs, mean: Array, cov: Array) -> Array:
    """[N, nodes]: what the better item may lead by."""
    d = mean[p.prompt, p.better] - mean[p.prompt, p.worse]
    variance = (
        cov[p.prompt, p.better, p.better]
        + cov[p.prompt, p.worse, p.worse]
        - 2 * cov[p.prompt, p.better, p.worse]
    )
    found: Array = d[:, None] + np.sqrt(np.maximum(variance, 0))[:, None] * NODES
    return found


def _responsibility(p: _Pairs, gamma: Array, lead: Array) -> tuple[Array, Array]:
    """[N]: the expected slope of the log-likelihood by the reliability, and its square's."""
    u = np.tanh(lead / 2) / 2  # sigma(lead) - 1/2
    ratio = u / (0.5 + gamma[p.labeler][:, None] * u)
    return ratio @ GIVEN, (ratio**2) @ GIVEN


def _reliabilities(p: _Pairs, gamma: Array, lead: Array) -> Array:
    """Two Newton steps on each labeler's expected log-likelihood and prior, which is concave."""
    a, b = PRIOR[0] - 1, PRIOR[1] - 1
    for _ in range(2):
        slope, square = _responsibility(p, gamma, lead)
        first = np.bincount(p.labeler, slope, p.n_labelers) + a / (1 + gamma) - b / (1 - gamma)
        second = np.bincount(p.labeler, square, p.n_labelers) + a / (1 + gamma) ** 2 + b / (1 - gamma) ** 2
        # Halfway to an end at most: the ends themselves have no chance under the prior.
        gamma = np.clip(gamma + first / second, (gamma - 1) / 2, (gamma + 1) / 2)
    return gamma


def _errors(p: _Pairs, gamma: Array, lead: Array) -> Array:
    """[H] standard errors, from the slopes of whole prompts: pairs of one ranking are not independent."""
    a, b = PRIOR[0] - 1, PRIOR[1] - 1
    slope, _ = _responsibility(p, gamma, lead) if len(p.labeler) else (np.zeros(0), None)
    by_prompt = np.bincount(p.prompt * p.n_labelers + p.labeler, slope, p.n_prompts * p.n_labelers)
    per = by_prompt.reshape(p.n_prompts, p.n_labelers)
    information = per.T @ per + np.diag(a / (1 + gamma) ** 2 + b / (1 - gamma) ** 2)
    found: Array = np.sqrt(np.diag(np.linalg.inv(information))) if p.n_labelers else np.zeros(0)
    return found
