"""Four counts -> the metrics of Table 1, with intervals. What is undefined is NaN, never 0."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import nan

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve


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
        if self.precision != self.precision or self.recall != self.recall:
            return nan
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

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
        named = ("accuracy", "precision", "recall", "f1", "specificity")
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
    """Area under the ROC curve; NaN where only one class is present."""
    return float(roc_auc_score(labels, probabilities)) if len(set(labels)) == 2 else nan


def choose_threshold(labels: Sequence[int], probabilities: Sequence[float], rule: str) -> float:
    """The threshold that a rule picks on one set, to be used on another.

    `youden` maximises recall + specificity - 1; `recall90` is the highest threshold with a recall of 0.9 or more.
    A radiograph is called positive at or above the threshold.
    """
    if len(set(labels)) < 2:
        raise ValueError(f"threshold = {rule!r} needs both classes in the validation part; it has one")
    false_positives, recall, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    if rule == "youden":
        return float(thresholds[np.argmax(recall - false_positives)])
    if rule == "recall90":
        return float(thresholds[np.argmax(recall >= 0.9)])
    raise ValueError(f"no threshold rule {rule!r}; the rules are youden and recall90")
