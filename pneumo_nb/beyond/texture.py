"""Texture analysis, as the paper's forerunners did it: six lung zones -> numbers -> a classifier.

In: a dataset (`train.dataset`). Out: features (images, zones, numbers), and classifiers fitted to them.
"""

from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pneumo_nb.train import dataset

GREY = 16  # grey levels of co-occurrence and run lengths
BINS = 32  # of the histograms of filtered images, from black to white
WAVELET_LEVELS = 7  # 3 x 7 + 1 = 22 energies (Zhu, Luo et al. 2014), fewer where the image is small
STEPS = (0, 1), (-1, 1), (-1, 0), (-1, -1)  # pixels down and right: at 0, 45, 90 and 135 degrees
FOLDS = 4  # of the cross-validation within the training set
LUNG_AT, LUNG_RADII = ((0.42, 0.30), (0.42, 0.70)), (0.32, 0.16)  # ellipses that hold lungs: shares of height and width


def lung_fields(image: np.ndarray) -> np.ndarray:
    """Where the lungs probably are in an equalised radiograph, both (height, width); a guess for films unmasked.

    In each of two upright ellipses the darker part by Otsu's threshold, opened, the largest piece, closed; where that
    leaves one of the six zones empty, the ellipses themselves.
    """
    height, width = image.shape
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width) + 0.5) / width
    smooth = cv2.GaussianBlur(np.uint8(np.clip(image, 0, 1) * 255), (0, 0), width / 50)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width // 20 * 2 + 1,) * 2)
    ellipses, found = np.zeros((2, height, width), bool)
    for centre in LUNG_AT:
        inside = ((y - centre[0]) / LUNG_RADII[0]) ** 2 + ((x - centre[1]) / LUNG_RADII[1]) ** 2 < 1
        level, _ = cv2.threshold(smooth[inside][None], 0, 255, cv2.THRESH_OTSU)
        dark = cv2.morphologyEx(np.uint8(inside & (smooth <= level)), cv2.MORPH_OPEN, disc)
        _, pieces, about, _ = cv2.connectedComponentsWithStats(dark)
        largest = pieces == 1 + about[1:, cv2.CC_STAT_AREA].argmax() if len(about) > 1 else inside
        found |= cv2.morphologyEx(np.uint8(largest), cv2.MORPH_CLOSE, disc).astype(bool) & inside
        ellipses |= inside
    return found if zones(found).any(axis=(1, 2)).all() else ellipses


def zones(lungs: np.ndarray) -> np.ndarray:
    """(height, width) bool -> (6, height, width): thirds of each lung, from above, left lung of the picture first.

    The lungs are parted at the column of the middle third that holds least lung.
    """
    at, column = np.arange(len(lungs))[:, None], np.arange(lungs.shape[1])
    third, parts = len(column) // 3, []
    middle = third + int(lungs[:, third : len(column) - third].sum(0).argmin())
    for one in (lungs & (column < middle), lungs & (column >= middle)):
        rows = np.flatnonzero(one.any(1))
        edges = np.linspace(rows[0], rows[-1] + 1, 4).round() if len(rows) else np.zeros(4)
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
    filtered, wide, (height, width) = [image], np.pad(image, 2, "edge"), image.shape
    for d in (1, 2):
        rows, columns = ({step: slice(2 + step * d, 2 + step * d + n) for step in (-1, 0, 1)} for n in (height, width))
        at = {(dy, dx): wide[rows[dy], columns[dx]] for dy in rows for dx in columns}
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
    bins = np.rint(values * BINS).astype(int)
    shape, place = (len(bins), np.ptp(bins) + 1), np.arange(len(bins))[:, None]
    counts = np.bincount((bins - bins.min() + place * shape[1]).ravel(), minlength=np.prod(shape))
    p = counts.reshape(shape) / values.shape[1]
    energy, entropy = (p**2).sum(axis=1), -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=1)
    kurtosis = np.where(sd > 1e-9, (z**2 * z**2).mean(axis=1) - 3, 0)
    return np.stack([mean, sd, (z**2 * z).mean(axis=1), kurtosis, energy, entropy], axis=1)


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


def _at(image: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """What lies a step (down, right), each -1, 0 or 1, from each pixel; 0 past the border."""
    there, here = ([slice(max(sign * one, 0), min(sign * one, 0) or None) for one in step] for sign in (1, -1))
    moved = np.zeros_like(image)
    moved[*here] = image[*there]
    return moved


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
        energies, bank = haar(image, levels) ** 2, differences(image)
        found["wavelet"].append([energies[:, zone].mean(axis=1) for zone in parts])
        found["filter bank"].append([statistics(bank[:, zone]).ravel() for zone in parts])
        grey, cut = np.minimum((image * GREY).astype(int), GREY - 1), []
        for zone in parts:
            x, y, width, height = cv2.boundingRect(np.uint8(zone))
            cut.append([whole[y : y + height, x : x + width] for whole in (grey, zone)])
        for family, matrix, of in (("co-occurrence", co_occurrence, haralick), ("run length", run_lengths, galloway)):
            found[family].append([np.ravel([of(matrix(*of_zone, step)) for step in STEPS]) for of_zone in cut])
        whose.append(by)
    return {family: np.array(rows) for family, rows in found.items()}, whose


def chosen(
    classifier: BaseEstimator, grid: dict, features: np.ndarray, labels: np.ndarray, patients, scoring: str = "roc_auc"
) -> GridSearchCV:
    """The classifier with those values of the `grid` that score best in cross-validation grouped by patient, fitted.

    `features` (images, numbers), `labels` and `patients` (images,) are the training set's. There are FOLDS folds, or
    fewer where one would have one class only; a ValueError where two are too many.
    """
    most = pd.Series(patients).groupby(labels).nunique().nlargest(2)
    fewest = most.min() if len(most) == 2 else 0
    model = Pipeline([("standardised", StandardScaler()), ("classifier", classifier)])
    grid = {f"classifier__{name}": values for name, values in grid.items()}
    for number in range(min(FOLDS, fewest), 1, -1):
        folds = list(StratifiedGroupKFold(number, shuffle=True, random_state=0).split(features, labels, patients))
        if all(len(set(labels[part])) > 1 for fold in folds for part in fold):
            with threadpool_limits(1):  # threads would wait for each other more than they calculate
                return GridSearchCV(model, grid, scoring=scoring, cv=folds).fit(features, labels)
    raise ValueError(f"a class of the training set has {fewest} patients: cross-validation needs two or more")
