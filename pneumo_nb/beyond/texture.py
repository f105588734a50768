"""Texture analysis, as the paper's forerunners did it: six lung zones -> numbers -> a classifier, beside a run.

In: a dataset (`train.dataset`) and the runs on it. Out: features, classifiers, and their scores as `runs.Run`, so that
`results.tables` compares them with networks on the same radiographs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from pneumo_nb import metrics
from pneumo_nb.train import dataset, runs

GREY = 16  # grey levels of co-occurrence and run lengths
BINS = 32  # of the histograms of filtered images, from black to white
WAVELET_LEVELS = 7  # 3 x 7 + 1 = 22 energies (Zhu, Luo et al. 2014), fewer where the image is small
STEPS = (0, 1), (-1, 1), (-1, 0), (-1, -1)  # pixels down and right: at 0, 45, 90 and 135 degrees
FOLDS = 4  # of the cross-validation within the training set
LUNG_AT, LUNG_RADII = ((0.42, 0.30), (0.42, 0.70)), (0.32, 0.16)  # ellipses that hold lungs: shares of height and width


def lung_fields(image: np.ndarray) -> np.ndarray:
    """Where the lungs probably are in an equalised frontal radiograph, both (side, side); a guess for films unmasked.

    In each of two upright ellipses the darker part by Otsu's threshold, opened, the largest piece, closed.
    """
    side = len(image)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    smooth = cv2.GaussianBlur(np.uint8(np.clip(image, 0, 1) * 255), (0, 0), side / 50)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side // 20 * 2 + 1,) * 2)
    found = np.zeros((side, side), bool)
    for centre in LUNG_AT:
        inside = ((y - centre[0]) / LUNG_RADII[0]) ** 2 + ((x - centre[1]) / LUNG_RADII[1]) ** 2 < 1
        level, _ = cv2.threshold(smooth[inside][None], 0, 255, cv2.THRESH_OTSU)
        dark = cv2.morphologyEx(np.uint8(inside & (smooth <= level)), cv2.MORPH_OPEN, disc)
        _, pieces, about, _ = cv2.connectedComponentsWithStats(dark)
        largest = pieces == 1 + about[1:, cv2.CC_STAT_AREA].argmax() if len(about) > 1 else inside
        found |= cv2.morphologyEx(np.uint8(largest), cv2.MORPH_CLOSE, disc).astype(bool) & inside
    return found


def zones(lungs: np.ndarray) -> np.ndarray:
    """(side, side) bool -> (6, side, side): thirds of each lung's height, from above, left lung of the picture first.

    The lungs are parted at the column of the middle third that holds least lung.
    """
    side = len(lungs)
    middle = side // 3 + int(lungs[:, side // 3 : side - side // 3].sum(0).argmin())
    parts = []
    for one in (lungs & (np.arange(side) < middle), lungs & (np.arange(side) >= middle)):
        rows = np.flatnonzero(one.any(1))
        edges = np.linspace(rows[0], rows[-1] + 1, 4).round() if len(rows) else np.zeros(4)
        at = np.arange(side)[:, None]
        parts += [one & (at >= low) & (at < high) for low, high in pairwise(edges)]
    return np.stack(parts)


def haar(image: np.ndarray, levels: int = WAVELET_LEVELS) -> np.ndarray:
    """Undecimated Haar coefficients, (3 levels + 1, height, width): details level by level, then the approximation.

    The image goes on at its other side, so that the mean squares of all coefficients sum to that of the image.
    """
    low, details = image, []
    for step in (2**level for level in range(levels)):
        (low, across), (down, both) = (_halves(part, step, axis=1) for part in _halves(low, step, axis=0))
        details += [across, down, both]
    return np.stack([*details, low])


def _halves(image: np.ndarray, step: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    beside = np.roll(image, -step, axis)
    return (image + beside) / 2, (image - beside) / 2


def differences(image: np.ndarray) -> np.ndarray:
    """Yu's bank, (37, height, width): the image, and differences of first and second order at distances 1 and 2.

    At nine angles t: fx cos t + fy sin t, and fxx cos2 t + fyy sin2 t + fxy cos t sin t, as printed where it was read.
    """
    filtered = [image]
    for d in (1, 2):
        at = {(dy, dx): _at(image, (dy * d, dx * d), "edge") for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        fx, fy = (at[0, 1] - at[0, -1]) / 2, (at[1, 0] - at[-1, 0]) / 2
        fxx, fyy = at[0, 1] - 2 * image + at[0, -1], at[1, 0] - 2 * image + at[-1, 0]
        fxy = (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / 4
        for t in np.arange(9) * np.pi / 9:
            c, s = np.cos(t), np.sin(t)
            filtered += [fx * c + fy * s, fxx * c**2 + fyy * s**2 + fxy * c * s]
    return np.stack(filtered)


def statistics(values: np.ndarray) -> np.ndarray:
    """(filters, pixels) -> (filters, 6): mean, SD, skewness, kurtosis, then energy and entropy (bits) of a histogram.

    Skewness and kurtosis of pixels that are all alike are 0.
    """
    mean, sd = values.mean(axis=1), values.std(axis=1)
    z = (values - mean[:, None]) / np.maximum(sd, 1e-9)[:, None]
    shares = [np.unique(row, return_counts=True)[1] / len(row) for row in np.rint(values * BINS)]
    energy, entropy = [(p**2).sum() for p in shares], [-(p * np.log2(p)).sum() for p in shares]
    kurtosis = np.where(sd > 1e-9, (z**4).mean(axis=1) - 3, 0)
    return np.stack([mean, sd, (z**3).mean(axis=1), kurtosis, energy, entropy], axis=1)


def quantised(image: np.ndarray, grey: int = GREY) -> np.ndarray:
    """Grey values from 0 to 1 as levels from 0 to grey - 1."""
    return np.minimum((image * grey).astype(int), grey - 1)


def co_occurrence(levels: np.ndarray, mask: np.ndarray, step: tuple[int, int], grey: int = GREY) -> np.ndarray:
    """(grey, grey): how often two levels lie a `step` apart within the mask, each pair seen from both of its ends."""
    both = mask & _at(mask, step)
    pairs = np.bincount(levels[both] * grey + _at(levels, step)[both], minlength=grey**2).reshape(grey, grey)
    return pairs + pairs.T


def haralick(pairs: np.ndarray) -> np.ndarray:
    """Energy, entropy (bits), homogeneity, correlation and inertia of a co-occurrence matrix (Haralick 1973)."""
    p = pairs / max(pairs.sum(), 1)
    i, j = np.indices(p.shape)
    mean = (i * p).sum()
    variance = ((i - mean) ** 2 * p).sum()
    correlation = ((i - mean) * (j - mean) * p).sum() / variance if variance > 0 else 0.0
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    return np.array([(p**2).sum(), entropy, (p / (1 + (i - j) ** 2)).sum(), correlation, ((i - j) ** 2 * p).sum()])


def run_lengths(levels: np.ndarray, mask: np.ndarray, step: tuple[int, int], grey: int = GREY) -> np.ndarray:
    """(grey, longest): how many runs of one level, and of each length from 1, lie along a `step` within the mask."""
    back = (-step[0], -step[1])
    goes_on = mask & _at(mask, step) & (levels == _at(levels, step))
    running, columns = mask & ~_at(goes_on, back), []
    while running.any():
        columns.append(np.bincount(levels[running & ~goes_on], minlength=grey))
        running = _at(running & goes_on, back)
    return np.stack(columns, axis=1) if columns else np.zeros((grey, 1), int)


def galloway(lengths: np.ndarray) -> np.ndarray:
    """Short and long run emphasis, grey level and run length non-uniformity, run percentage (Galloway 1975)."""
    runs_, length = max(lengths.sum(), 1), np.arange(1, lengths.shape[1] + 1)
    short, long = (lengths / length**2).sum(), (lengths * length**2).sum()
    uneven = (lengths.sum(1) ** 2).sum(), (lengths.sum(0) ** 2).sum()
    return np.array([short, long, *uneven, lengths.sum() ** 2 / max((lengths * length).sum(), 1)]) / runs_


def _at(image: np.ndarray, step: tuple[int, int], beyond: str = "constant") -> np.ndarray:
    """What lies a step (down, right) from each pixel; past the border 0 or, with `edge`, what lies on it."""
    (down, right), (height, width) = step, image.shape
    room = max(abs(down), abs(right))
    return np.pad(image, room, beyond)[room + down : room + down + height, room + right : room + right + width]


def lung_zones(data: dataset.Dataset, position: int) -> tuple[np.ndarray, str]:
    """The six zones of a radiograph, and whose they are: `mask` of the dataset, or `rule` (`lung_fields`).

    The rule serves where there is no mask, or one that leaves a zone empty.
    """
    known = dataset.masks(data, np.array([position]))
    if "lungs" in known and (parts := zones(known["lungs"][0])).any(axis=(1, 2)).all():
        return parts, "mask"
    return zones(lung_fields(data.images[position, 0].numpy() / data.white)), "rule"


def described(data: dataset.Dataset) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each family's features, (images, 6 zones, features), in the manifest's order; whose zones each has."""
    found: dict[str, list] = {"wavelet": [], "filter bank": [], "co-occurrence": [], "run length": []}
    whose, levels = [], min(WAVELET_LEVELS, data.image_size.bit_length() - 1)
    for position in range(len(data.labels)):
        image, (parts, by) = data.images[position, 0].numpy() / data.white, lung_zones(data, position)
        energies, bank, grey = haar(image, levels) ** 2, differences(image), quantised(image)
        found["wavelet"].append([energies[:, zone].mean(axis=1) for zone in parts])
        found["filter bank"].append([statistics(bank[:, zone]).ravel() for zone in parts])
        for family, matrix, of in (("co-occurrence", co_occurrence, haralick), ("run length", run_lengths, galloway)):
            found[family].append([np.ravel([of(matrix(grey, zone, step)) for step in STEPS]) for zone in parts])
        whose.append(by)
    return {family: np.array(rows) for family, rows in found.items()}, whose


def classifiers(seed: int = 0) -> dict[str, tuple[BaseEstimator, dict[str, tuple]]]:
    """Each classifier with the values that cross-validation chooses from."""
    return {
        "SVM, linear": (SVC(kernel="linear"), {"C": (0.001, 0.01, 0.1, 1)}),
        "SVM, RBF": (SVC(kernel="rbf"), {"C": (0.1, 1, 10, 100)}),
        "SVM, polynomial": (SVC(kernel="poly", coef0=1), {"C": (0.01, 0.1, 1, 10), "degree": (2, 3)}),
        "SVM, sigmoid": (SVC(kernel="sigmoid"), {"C": (0.01, 0.1, 1, 10)}),
        "decision tree": (DecisionTreeClassifier(random_state=seed), {"max_depth": (2, 4), "min_samples_leaf": (2, 8)}),
        "neural network": (
            MLPClassifier((16,), solver="lbfgs", tol=0.01, max_iter=2000, random_state=seed),
            {"alpha": (1, 10, 100)},
        ),
    }


def chosen(name: str, features: np.ndarray, labels: np.ndarray, patients: Sequence[str], seed: int = 0) -> GridSearchCV:
    """The classifier of that name, fitted with the values of the best AUC in cross-validation grouped by patient.

    `features` (images, numbers), `labels` and `patients` (images,) are the training set's. A ValueError if a class has
    fewer than two patients.
    """
    fewest = pd.Series(patients).groupby(labels).nunique().reindex([0, 1], fill_value=0).min()
    if fewest < 2:
        raise ValueError(f"a class of the training set has {fewest} patients: cross-validation needs two or more")
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    model, grid = classifiers(seed)[name]
    pipeline, of_model = make_pipeline(StandardScaler(), model), type(model).__name__.lower()
    grid = {f"{of_model}__{value}": choices for value, choices in grid.items()}
    return GridSearchCV(pipeline, grid, scoring="roc_auc", cv=folds).fit(features, labels, groups=patients)


def scores(model: GridSearchCV, features: np.ndarray) -> np.ndarray:
    """How sure the model is, (images,): above 0 it calls pneumoconiosis."""
    if hasattr(model, "decision_function"):
        return model.decision_function(features)
    return model.predict_proba(features)[:, 1] - 0.5


@dataclass(frozen=True)
class Beside(runs.Run):
    """Scores on the radiographs of a network's run, in a run's form; its probability is a score, its threshold 0."""

    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)


def beside(run: runs.Run, images: Sequence[str], scored: np.ndarray) -> Beside:
    """`scored` (images,) of the radiographs with these ids as what `results.tables` compares with that run."""
    told = run.predictions.assign(probability=run.predictions["image_id"].map(dict(zip(images, scored, strict=True))))
    tested = told[told["split"] == "test"]
    counts = vars(metrics.Counts.of(tested["label"], tested["probability"] >= 0))
    auc = metrics.auc(tested["label"], tested["probability"])
    return Beside(run.key, run.record | {"threshold": 0.0, "test": counts, "test_auc": auc}, run.reference, told)
