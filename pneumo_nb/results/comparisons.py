"""Two columns against each other: intervals and p-values of a difference. A difference is always second - first."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata

from pneumo_nb.metrics import wilson

ENDS = [0.025, 0.975]  # quantiles that a 95 % interval lies between


class Difference(NamedTuple):
    """A difference with its 95 % interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p of b against c discordant radiographs (McNemar 1947, Psychometrika 12:153); 1 without any."""
    return float(binomtest(b, b + c).pvalue) if b + c else 1.0


def newcombe(first: int, first_trials: int, second: int, second_trials: int) -> tuple[float, float]:
    """95 % interval of a difference of two unpaired proportions (Newcombe 1998, Stat. Med. 17:873, method 10)."""
    (low_1, high_1), (low_2, high_2) = wilson(first, first_trials), wilson(second, second_trials)
    p_1, p_2 = (part / whole if whole else np.nan for part, whole in ((first, first_trials), (second, second_trials)))
    difference = p_2 - p_1
    low = difference - np.hypot(p_2 - low_2, high_1 - p_1)
    high = difference + np.hypot(high_2 - p_2, p_1 - low_1)
    return float(low), float(high)


def delong(labels: Sequence[int], first: Sequence[float], second: Sequence[float]) -> Difference:
    """Difference of the areas under two ROC curves on the same radiographs.

    DeLong et al. 1988, Biometrics 44:837, by midranks as Sun and Xu 2014, IEEE Signal Process. Lett. 21:1389. Interval
    and p are NaN where nothing varies (equal or perfect rankings) or a class has fewer than two radiographs.
    """
    y = np.asarray(labels, dtype=bool)
    if min(y.sum(), (~y).sum()) < 2:
        return Difference(*[np.nan] * 4)
    (positives_1, negatives_1), (positives_2, negatives_2) = (_placements(y, np.asarray(q)) for q in (first, second))
    positives, negatives = positives_2 - positives_1, negatives_2 - negatives_1
    value = positives.mean()
    error = np.sqrt(positives.var(ddof=1) / len(positives) + negatives.var(ddof=1) / len(negatives))
    error = error if error > 1e-12 else np.nan
    low, high = norm.interval(0.95, value, error)
    return Difference(float(value), float(low), float(high), float(2 * norm.sf(abs(value) / error)))


def _placements(y: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative that of positives above; a tie is half."""
    ranks, positives = rankdata(q), y.sum()
    below = (ranks[y] - rankdata(q[y])) / (len(y) - positives)
    above = 1 - (ranks[~y] - rankdata(q[~y])) / positives
    return below, above


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Defined p-values, adjusted for their number, in their order (Holm 1979, Scand. J. Stat. 6:65)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def bootstrap(
    statistic: Callable[..., float], patients: Sequence, *arrays: Sequence, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of `statistic(*arrays)`, over `resampled`; draws that give NaN are left out."""
    values = [statistic(*drawn) for drawn in resampled(patients, *arrays, draws=draws, seed=seed)]
    return tuple(pd.Series(values).quantile(ENDS).tolist())


def resampled(patients: Sequence, *arrays: Sequence, draws: int, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """The arrays with patients drawn anew, each with all of its images, so many times.

    Field and Welsh 2007, J. R. Stat. Soc. B 69:369. Every argument is (images,).
    """
    columns = [np.asarray(array) for array in arrays]
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    images = [np.flatnonzero(owner == patient) for patient in range(len(names))]
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        rows = np.concatenate([images[patient] for patient in generator.integers(len(names), size=len(names))])
        yield [column[rows] for column in columns]
