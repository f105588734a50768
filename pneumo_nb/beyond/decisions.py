"""From a probability to a decision: calibration, thresholds with a guarantee, net benefit.

Whatever is chosen here is chosen on one set, the validation part, and judged on another. Labels are 0 or 1, (images,);
a radiograph is called positive at or above a threshold.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, exp, log, nan

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from pneumo_nb import metrics
from pneumo_nb.settings import refuse

METHODS = ("platt", "isotonic", "shift")
NEAREST = 1e-7  # to 0 and 1 that a probability counts in a logit; float32 rounds to both
FARTHEST = 50.0  # shift of a logit that is looked for


def calibration(method: str, labels: Sequence[int], probabilities: Sequence[float]) -> Callable[..., np.ndarray]:
    """What turns probabilities of this network into calibrated ones, fitted on a set that it was not trained on.

    `platt`     a straight line in the logit, of labels drawn in from 0 and 1 (Platt 1999, Section 2.2).
    `isotonic`  the rising steps that fit best (Zadrozny and Elkan 2002); needs hundreds of radiographs.
    `shift`     log r taken off each logit (see metrics.correct_logit), such that as many are expected as there are.
    """
    y, x = np.asarray(labels, dtype=bool), _logit(probabilities)
    positives, negatives = y.sum(), (~y).sum()
    counts = f"{positives} positive and {negatives} negative radiographs"
    refuse(not positives or not negatives, f"calibration = {method!r} needs both classes; it got {counts}")
    if method == "isotonic":
        steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return steps.fit(np.asarray(probabilities, dtype=float), y).predict
    if method == "shift":
        return partial(metrics.correct_logit, ratio=exp(_shift(y, x)))
    if method == "platt":
        target = np.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        line = _line(np.tile(x, 2), np.repeat([1, 0], len(x)), np.concatenate([target, 1 - target]))
        return lambda others: expit(line.intercept_[0] + line.coef_[0, 0] * _logit(others))
    raise ValueError(f"no calibration {method!r}; they are {', '.join(METHODS)}")


def slope_and_intercept(labels: Sequence[int], probabilities: Sequence[float]) -> tuple[float, float]:
    """1 and 0 for calibrated probabilities (Cox 1958, Biometrika 45:562; Van Calster 2019, BMC Med. 17:230).

    A slope below 1: too extreme; an intercept (that of slope 1) below 0: too high. NaN: the slope where a threshold
    parts the classes, both where one class is missing.
    """
    y, q = np.asarray(labels, dtype=bool), np.asarray(probabilities, dtype=float)
    if y.all() or not y.any():
        return nan, nan
    apart = q[y].min() > q[~y].max() or q[y].max() < q[~y].min()
    return nan if apart else float(_line(_logit(q), y).coef_[0, 0]), -_shift(y, _logit(q))


def _logit(probabilities: Sequence[float]) -> np.ndarray:
    return logit(np.clip(np.asarray(probabilities, dtype=float), NEAREST, 1 - NEAREST))


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> LogisticRegression:
    plain = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)  # no penalty
    return plain.fit(x[:, None], y, sample_weight=weights)


def _shift(y: np.ndarray, x: np.ndarray) -> float:
    """What is to be taken off the logits, so that as many positives are expected as there are."""
    return float(brentq(lambda shift: expit(x - shift).mean() - y.mean(), -FARTHEST, FARTHEST, xtol=1e-12))


def misses_allowed(radiographs: int, share: float = 0.9, confidence: float = 0.95) -> int:
    """The most of so many radiographs of a class that a threshold may miss if it shall find `share` of all such.

    For the k-th smallest score as threshold, P(Bin(n, 1 - share) < k) is the chance that it finds less (the exact
    tolerance limit of Wilks 1941, Ann. Math. Stat. 12:91). A ValueError says how many radiographs are the least.
    """
    kept = int((binom.cdf(np.arange(radiographs), radiographs, 1 - share) <= 1 - confidence).sum())
    if not kept:
        least = ceil(log(1 - confidence) / log(share))  # share^n <= 1 - confidence
        cannot = f"{radiographs} radiographs cannot show that {share:.0%} of their class are called right"
        raise ValueError(f"{cannot} with {confidence:.0%} confidence: {least} are the least")
    return kept - 1


def guaranteed(
    labels: Sequence[int], probabilities: Sequence[float], recall: float = 0.9, confidence: float = 0.95
) -> float:
    """The highest threshold that finds `recall` of all such patients, with this confidence; ValueError: too few here.

    The promise holds for patients drawn as these were, one radiograph each, and for one threshold.
    """
    scores = np.sort(np.asarray(probabilities, dtype=float)[np.asarray(labels, dtype=bool)])
    return float(scores[misses_allowed(len(scores), recall, confidence)])


def zone(
    labels: Sequence[int], probabilities: Sequence[float], share: float = 0.9, confidence: float = 0.95
) -> tuple[float, float]:
    """Two thresholds: called negative below the first, positive from the second on, and uncertain between them.

    The first finds `share` of the positives, the second spares `share` of the negatives, each as `guaranteed`. Where
    one threshold does both, the two are equal and nothing is uncertain.
    """
    low = guaranteed(labels, probabilities, share, confidence)
    negatives = ~np.asarray(labels, dtype=bool)
    highest_spared = -guaranteed(negatives, -np.asarray(probabilities, dtype=float), share, confidence)
    return low, max(low, float(np.nextafter(highest_spared, np.inf)))


def net_benefit(
    labels: Sequence[int], probabilities: Sequence[float], thresholds: Sequence[float], patients=None, draws: int = 1000
) -> pd.DataFrame:
    """A decision curve (Vickers and Elkin 2006, Med. Decis. Making 26:565): a row for each threshold, above 0, below 1.

    Columns: threshold; net_benefit = TP/n - FP/n * t/(1 - t); low and high, its 95 % interval by drawing `patients`
    (images,) with all of their radiographs; treat_all and treat_none. The probabilities must be calibrated, and a curve
    chooses no threshold: what a false alarm costs against a missed patient does.
    """
    y, q = np.asarray(labels, dtype=bool), np.asarray(probabilities, dtype=float)
    t = np.asarray(thresholds, dtype=float)
    refuse(not (len(t) and ((t > 0) & (t < 1)).all()), "net benefit needs thresholds above 0 and below 1")
    odds = t / (1 - t)
    gained = (q[:, None] >= t) * np.where(y[:, None], 1, -odds)  # (images, thresholds): of each radiograph
    names, owner = np.unique(np.arange(len(y)) if patients is None else np.asarray(patients), return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)[:, owner]
    low, high = np.quantile(drawn @ gained / drawn.sum(axis=1, keepdims=True), (0.025, 0.975), axis=0)
    curve = {"threshold": t, "net_benefit": gained.mean(axis=0), "low": low, "high": high}
    return pd.DataFrame(curve | {"treat_all": y.mean() - (1 - y.mean()) * odds, "treat_none": 0.0})
