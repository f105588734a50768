"""One run's counts and probabilities -> the metrics of Table 1 and more, with intervals. Undefined is NaN, never 0."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log, nan, sqrt

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, precision_recall_curve, roc_curve

from pneumo_nb.settings import refuse


@dataclass(frozen=True)
class Counts:
    """Outcomes on a set of radiographs; the definitions are those of Table 1."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, labels: Sequence[int], called: Sequence[bool]) -> "Counts":
        """Count from true labels (0/1) and calls (True: called pneumoconiosis), both of shape (images,)."""
        y, q = np.asarray(labels, dtype=bool), np.asarray(called, dtype=bool)
        return cls(tp=int((y & q).sum()), fp=int((~y & q).sum()), fn=int((y & ~q).sum()), tn=int((~y & ~q).sum()))

    @property
    def images(self) -> int:
        """All radiographs counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def accuracy(self) -> float:
        """(TP + TN) / all."""
        return _ratio(self.tp + self.tn, self.images)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), also called sensitivity."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP); not in Table 1."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def f1(self) -> float:
        """2 * precision * recall / (precision + recall); undefined when either of them is."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of recall and specificity; 0.5 for whoever calls everybody the same."""
        return (self.recall + self.specificity) / 2

    @property
    def mcc(self) -> float:
        """Matthews' correlation of calls with labels, -1 to 1 (Matthews 1975, Biochim. Biophys. Acta 405:442)."""
        margins = (self.tp + self.fp) * (self.tp + self.fn) * (self.tn + self.fp) * (self.tn + self.fn)
        return _ratio(self.tp * self.tn - self.fp * self.fn, sqrt(margins))

    def interval(self, metric: str) -> tuple[float, float]:
        """Wilson's 95 % interval of accuracy, precision, recall or specificity: proportions of independent images."""
        successes, trials = {
            "accuracy": (self.tp + self.tn, self.images),
            "precision": (self.tp, self.tp + self.fp),
            "recall": (self.tp, self.tp + self.fn),
            "specificity": (self.tn, self.tn + self.fp),
        }[metric]
        return wilson(successes, trials)

    def row(self) -> dict[str, float]:
        """Counts and metrics under the names that tables use."""
        named = ("accuracy", "precision", "recall", "f1", "specificity", "balanced_accuracy", "mcc")
        return asdict(self) | {name: getattr(self, name) for name in named}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else nan


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209); NaN without trials."""
    if not trials:
        return nan, nan
    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(low), float(high)


def auc(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative in which the positive lies above.

    Hanley and McNeil 1982, Radiology 143:29; a tie counts half. NaN for one class only, or where a probability is NaN.
    """
    y, q = np.asarray(labels, dtype=bool), np.asarray(probabilities, dtype=float)
    if np.isnan(q).any():  # sorting would take it for the highest
        return nan
    positives, negatives = q[y], np.sort(q[~y])
    below = sum(int(np.searchsorted(negatives, positives, side).sum()) for side in ("left", "right")) / 2
    return _ratio(below, len(positives) * len(negatives))  # sklearn's is slow in a bootstrap


def average_precision(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """Area under the precision-recall curve as steps; NaN where only one class is present."""
    return float(average_precision_score(labels, probabilities)) if len(set(labels)) == 2 else nan


def roc(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """The ROC curve: columns false_positive_rate, recall, threshold; no rows where only one class is present."""
    points = roc_curve(labels, probabilities) if len(set(labels)) == 2 else ([], [], [])
    return pd.DataFrame(dict(zip(("false_positive_rate", "recall", "threshold"), points, strict=True)))


def precision_recall(labels: Sequence[int], probabilities: Sequence[float]) -> pd.DataFrame:
    """The precision-recall curve: columns recall, precision, threshold; no rows where only one class is present.

    The last point, recall 0 and precision 1, is where nothing is called: a convention, at threshold infinity.
    """
    both = len(set(labels)) == 2
    precision, recall, thresholds = precision_recall_curve(labels, probabilities) if both else ([], [], [])
    return pd.DataFrame({"recall": recall, "precision": precision, "threshold": [*thresholds, np.inf][: len(recall)]})


def brier(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    """Mean squared distance of probability and label (Brier 1950, Mon. Weather Rev. 78:1); NaN without images."""
    return float(brier_score_loss(labels, probabilities, pos_label=1)) if len(labels) else nan


def reliability(labels: Sequence[int], probabilities: Sequence[float], bins: int = 10) -> pd.DataFrame:
    """Does pneumoconiosis turn out as often as predicted? A row for each of `bins` equal bins that holds an image.

    Columns: predicted (mean probability), observed (share of positives), low and high (its Wilson interval), images.
    """
    y, q = np.asarray(labels, dtype=int), np.asarray(probabilities, dtype=float)
    refuse(not ((q >= 0) & (q <= 1)).all(), "a reliability curve needs probabilities from 0 to 1")
    places = np.minimum((q * bins).astype(int), bins - 1)  # a probability of 1 belongs into the last bin
    inside = [places == place for place in np.unique(places)]
    rows = [(q[of].mean(), y[of].mean(), *wilson(int(y[of].sum()), int(of.sum())), of.sum()) for of in inside]
    return pd.DataFrame(rows, columns=["predicted", "observed", "low", "high", "images"])


def correct_logit(probabilities: Sequence[float], ratio: float) -> np.ndarray:
    """Probabilities of a network trained with positives weighted `ratio` : 1, as if they had not been weighted.

    Subtracts log(ratio) from each logit: the prior correction of King and Zeng 2001, Polit. Anal. 9:137, Section 4.1.
    """
    refuse(not ratio > 0, f"ratio = {ratio}: the weight of a positive against a negative is a number above 0")
    return expit(logit(np.asarray(probabilities, dtype=float)) - log(ratio))


def choose_threshold(labels: Sequence[int], probabilities: Sequence[float], rule: str) -> float:
    """The threshold that a rule picks on one set, to be used on another.

    `youden` maximises recall + specificity - 1; `recall90` is the highest threshold with a recall of 0.9 or more.
    A radiograph is called positive at or above the threshold.
    """
    refuse(len(set(labels)) < 2, f"threshold = {rule!r} needs both classes in the validation part; it has one")
    points = roc_curve(labels, probabilities, drop_intermediate=False)
    false_positives, recall, thresholds = (of[1:] for of in points)  # the first calls nothing, at infinity
    wanted = {"youden": recall - false_positives, "recall90": recall >= 0.9}
    refuse(rule not in wanted, f"no threshold rule {rule!r}; the rules are {' and '.join(wanted)}")
    return float(thresholds[np.argmax(wanted[rule])])
