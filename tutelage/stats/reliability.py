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
    is_settled: bool  # False: the steps ran out

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
    assert g.min() >= 0 and g.max() < n_classes, f"labels run from 0 to {n_classes - 1}"
    n_items, n_h = int(i.max()) + 1, int(h.max()) + 1 if n_labelers is None else n_labelers
    votes = np.zeros((n_items, n_classes))
    np.add.at(votes, (i, g), 1.0)
    posterior = votes / np.maximum(votes.sum(1, keepdims=True), 1)
    posterior[votes.sum(1) == 0] = 1 / n_classes
    prior = smoothing + diagonal * np.eye(n_classes)
    before, is_settled = -np.inf, False
    for _ in range(max_steps):
        count = np.zeros((n_h, n_classes, n_classes))
        for true in range(n_classes):
            np.add.at(count[:, true], (h, g), posterior[i, true])
        confusion = (count + prior) / (count + prior).sum(2, keepdims=True)
        share = (posterior.sum(0) + smoothing) / (n_items + n_classes * smoothing)
        log_joint = np.tile(np.log(share), (n_items, 1))
        np.add.at(log_joint, i, np.log(confusion)[h, :, g])
        top = log_joint.max(1, keepdims=True)
        weight = np.exp(log_joint - top)
        posterior = weight / weight.sum(1, keepdims=True)
        now = float((top[:, 0] + np.log(weight.sum(1))).sum())
        now += float((prior * np.log(confusion)).sum() + smoothing * np.log(share).sum())
        is_settled = now - before <= tolerance * len(i)
        if is_settled:
            break
        before = now
    return DawidSkene(posterior, confusion, share, np.bincount(h, minlength=n_h), is_settled)


# Comparisons.

PRIOR = (4.0, 1.5)  # of the chance of a right choice, a beta distribution: people are attentive until shown otherwise


def chance_better(gamma: ArrayLike, lead: ArrayLike) -> Array:
    """P(i is chosen over j) of a labeler, where i leads j by so many nats.

    gamma  1 is a Bradley-Terry judge, 0 a coin, -1 one who turns every judgement round

    The model of Bugakova et al. 2019, which crowd-kit's NoisyBradleyTerry fits, without a bias to a side.
    """
    found: Array = 0.5 + np.asarray(gamma) * (1 / (1 + np.exp(-np.asarray(lead, np.float64))) - 0.5)
    return found


@dataclass(frozen=True, slots=True)
class NoisyBT:
    """Reliability of each labeler with its 95 % interval, and what it was judged by.

    The reliability is gamma of `chance_better` times one factor of all labelers: how clear the pairs are, which is the
    root mean square of tanh(lead / 2). Comparisons alone cannot tell hard pairs from careless people.
    """

    reliability: Array  # [H], -1 to 1; of one without comparisons that of the prior alone
    low: Array  # [H]
    high: Array  # [H]
    n: NDArray[np.intp]  # [H], comparisons of which somebody else judged the same two items
    is_settled: bool  # False: the steps ran out

    @property
    def right(self) -> Array:
        """[H]: the chance to choose the answer that is better to all; .5 tells nothing."""
        return (1 + self.reliability) / 2

    @property
    def weights(self) -> Array:
        """[H], mean 1: weights of training. Nobody counts against, and where nobody counts for, all count alike."""
        kept = np.maximum(self.reliability, 0)
        found: Array = kept / kept.mean() if kept.any() else np.ones_like(kept)
        return found


@dataclass(frozen=True, slots=True)
class _Meetings:
    """Two labelers on the same two items: first and second labeler [M], whether they agree, and the prompt."""

    a: Indices
    b: Indices
    agree: NDArray[np.bool_]
    prompt: Indices


def fit_noisy_bt(
    better: ArrayLike,
    worse: ArrayLike,
    labeler: ArrayLike,
    prompt: ArrayLike,
    *,
    n_labelers: int | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
) -> NoisyBT:
    """Reliability r of H labelers from N comparisons without ties, of items that were judged by two people or more.

    better, worse  [N], items
    labeler        [N], 0 to H - 1
    prompt         [N], of the two items; intervals treat prompts as independent, not the comparisons within them
    tolerance      largest change of a reliability in a sweep at which the fit has settled

    Under `chance_better` two labelers agree on a pair of items with chance (1 + r_a r_b) / 2, whatever the scores: they
    are integrated out. So nobody is credited for scores that her own votes set, and it does not matter that the pairs
    of one ranking follow from one another. Maximum composite likelihood under PRIOR, by Newton's method in one
    reliability after the other. The sign of all together cannot be known: most labelers are taken to be right.
    """
    h = np.asarray(labeler, dtype=np.intp)
    n_h = (int(h.max()) + 1 if len(h) else 0) if n_labelers is None else n_labelers
    met, n = _meetings(np.asarray(better, np.intp), np.asarray(worse, np.intp), h, np.asarray(prompt, np.intp), n_h)
    agree, differ = np.zeros((n_h, n_h)), np.zeros((n_h, n_h))
    np.add.at(agree, (met.a, met.b), met.agree)
    np.add.at(differ, (met.a, met.b), ~met.agree)
    agree, differ = agree + agree.T, differ + differ.T
    r, is_settled = np.full(n_h, 2 * PRIOR[0] / sum(PRIOR) - 1), n_h == 0
    for _ in range(max_steps if n_h else 0):
        before = r.copy()
        for one in range(n_h):
            r[one] = _best(agree[one], differ[one], r, float(r[one]))
        is_settled = bool(np.abs(r - before).max() < tolerance)
        if is_settled:
            break
    r = _most_are_right(r, agree + differ)
    half = Z95 * _errors(met, agree, differ, r)
    return NoisyBT(r, np.maximum(r - half, -1), np.minimum(r + half, 1), n, is_settled)


def _meetings(
    better: Indices, worse: Indices, labeler: Indices, prompt: Indices, n_labelers: int
) -> tuple[_Meetings, NDArray[np.intp]]:
    """Every meeting of two labelers, and for each labeler the comparisons that met another's."""
    assert better.shape == worse.shape == labeler.shape == prompt.shape, "one entry a comparison, four times"
    assert (better != worse).all(), "an item is compared with itself"
    ends = np.stack([np.minimum(better, worse), np.maximum(better, worse)])
    pair = np.unique(ends, axis=1, return_inverse=True)[1].reshape(-1) if ends.size else np.zeros(0, np.intp)
    order = np.lexsort((labeler, pair))
    pair, labeler, prompt, first_won = pair[order], labeler[order], prompt[order], (better < worse)[order]
    most = int(np.bincount(pair).max()) if len(pair) else 0
    found, has_met = [], np.zeros(len(pair), dtype=bool)
    for apart in range(1, most):
        i = np.flatnonzero((pair[apart:] == pair[:-apart]) & (labeler[apart:] != labeler[:-apart]))
        found.append((i, i + apart))
        has_met[i] = has_met[i + apart] = True
    i, j = (np.concatenate(x) for x in zip(*found, strict=True)) if found else (np.zeros(0, np.intp),) * 2
    met = _Meetings(labeler[i], labeler[j], first_won[i] == first_won[j], prompt[i])
    return met, np.bincount(labeler[has_met], minlength=n_labelers)


def _best(agree: Array, differ: Array, others: Array, start: float) -> float:
    """The reliability that fits one labeler's meetings [H] best while the others' stay; the function is concave."""
    a, b, r = PRIOR[0] - 1, PRIOR[1] - 1, start
    for _ in range(50):
        more, less = others / (1 + r * others), others / (1 - r * others)
        slope = agree @ more - differ @ less + a / (1 + r) - b / (1 - r)
        bend = agree @ more**2 + differ @ less**2 + a / (1 + r) ** 2 + b / (1 - r) ** 2
        # Halfway to an end at most: the ends themselves have no chance under the prior.
        moved = float(np.clip(r + slope / bend, (r - 1) / 2, (r + 1) / 2))
        if abs(moved - r) < 1e-10:
            break
        r = moved
    return r


def _most_are_right(r: Array, meetings: Array) -> Array:
    """Each group of labelers who never met the rest, turned to the side that the prior prefers."""
    r, left = r.copy(), set(range(len(r)))
    while left:
        group, new = set[int](), {min(left)}
        while new:
            group |= new
            new = {int(k) for one in new for k in np.flatnonzero(meetings[one])} - group
        left -= group
        own = np.array(sorted(group))
        if np.arctanh(r[own]).sum() < 0:
            r[own] = -r[own]
    return r


def _errors(met: _Meetings, agree: Array, differ: Array, r: Array) -> Array:
    """[H] standard errors, from the slopes of whole prompts (a sandwich); what only the prior says stays wide."""
    n_h, product = len(r), np.outer(r, r)
    if n_h == 0:
        return np.zeros(0)
    prior = np.diag((PRIOR[0] - 1) / (1 + r) ** 2 + (PRIOR[1] - 1) / (1 - r) ** 2)
    bend = agree / (1 + product) ** 2 + differ / (1 - product) ** 2
    # d2 / dr_a2 on the diagonal; d2 / dr_a dr_b beside it
    expected = np.diag(bend @ r**2) + bend * product - agree / (1 + product) + differ / (1 - product)
    sign = np.where(met.agree, 1.0, -1.0)
    force = sign / (1 + sign * r[met.a] * r[met.b])
    slopes = np.zeros((int(met.prompt.max()) + 1 if len(met.prompt) else 0, n_h))
    np.add.at(slopes, (met.prompt, met.a), force * r[met.b])
    np.add.at(slopes, (met.prompt, met.b), force * r[met.a])
    inverse = np.linalg.pinv(expected + prior)
    found: Array = np.sqrt(np.diag(inverse @ (slopes.T @ slopes + prior) @ inverse))
    return found
