"""Cross entropy (Eq. 5) and the balanced loss (Eq. 7) in the readings that its sentence allows.

Eq. 7 weights class terms by alpha: n `if i = pos`, 1 `if i = neg`, with i running over the two *classes*. Read
literally that scales the whole loss by n + 1 and balances nothing; read as a weight for each *sample*, as the text
around it says ("we readjusted weights on each sample"), it balances. So the reading is a setting.
"""

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor
from torch.nn import functional

FOCAL_GAMMA = 2.0  # Lin et al. 2017, the value their abstract recommends


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 5 for each sample: logits (batch, 2), labels (batch,) of 0/1 -> (batch,), in nats."""
    return functional.cross_entropy(logits, labels, reduction="none")


def balanced_loss(logits: Tensor, labels: Tensor, reading: str, n: float) -> Tensor:
    """The training loss of one batch, a scalar.

    `label`        mean of cross entropies, each times n for a positive and 1 for a negative; the default.
    `torch_mean`   `torch.nn.functional.cross_entropy(weight=[1, n])` as it is: the same sum over the batch's *sum of
                   weights*, so that a batch of one class is not weighted at all.
    `eq7_literal`  Eq. 7 as printed: (n + 1) times cross entropy, whatever the label.
    `focal`        (1 - q)^2 cross entropy, q the probability of the true class; no n (Lin et al. 2017, Eq. 4).
    `sampler`      plain cross entropy; the *sampling* is balanced: positives are drawn n times as often.
    `none`         plain cross entropy.
    """
    each, weights = cross_entropy(logits, labels), 1 + (n - 1) * labels
    if reading == "label":
        return (each * weights).mean()
    if reading == "torch_mean":
        return (each * weights).sum() / weights.sum()
    if reading == "eq7_literal":
        return eq7(logits, labels, n)
    if reading == "focal":
        return ((1 - torch.exp(-each)) ** FOCAL_GAMMA * each).mean()
    if reading in ("sampler", "none"):
        return each.mean()
    raise ValueError(f"no reading {reading!r}; there is label, torch_mean, eq7_literal, focal, sampler and none")


def eq7(logits: Tensor, labels: Tensor, n: float) -> Tensor:
    """Eq. 7 term by term, mean over the batch: p the one-hot truth, q the softmax, alpha by class index."""
    p = functional.one_hot(labels, 2).to(logits.dtype)
    log_q = functional.log_softmax(logits, dim=1)
    log_1_minus_q = log_q.flip(1)  # two classes: 1 - q of one is q of the other
    # made on the device, where a recorded step cannot take anything from the CPU
    alpha = torch.where(torch.arange(2, device=logits.device) == 1, n, 1.0).to(logits.dtype)
    return -(alpha * p * log_q + alpha * (1 - p) * log_1_minus_q).sum(dim=1).mean()


def effective_ratio(reading: str, n: float, batch_size: int, positives: int, negatives: int) -> float:
    """How much more a positive than a negative moves the network, averaged over random batches of a training set.

    For `torch_mean` it is the expectation of weight / (sum of the batch's weights) for a positive, over the same for
    a negative; the rest of the batch is drawn from the rest of the set. Focal loss treats both classes alike.
    """
    if reading in ("label", "sampler"):
        return n
    if reading != "torch_mean":
        return 1.0
    k = np.arange(batch_size)  # positives among the batch's other images
    beside_positive = hypergeom.pmf(k, positives + negatives - 1, positives - 1, batch_size - 1)
    beside_negative = hypergeom.pmf(k, positives + negatives - 1, positives, batch_size - 1)
    positive = (beside_positive * n / (n * (k + 1) + batch_size - 1 - k)).sum()
    negative = (beside_negative / (n * k + batch_size - k)).sum()
    return float(positive / negative)
