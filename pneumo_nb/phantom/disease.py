"""What dust does to a lung, by the terms of the ILO (2011), and what a healthy lung holds that looks like it."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import cv2
import numpy as np

from pneumo_nb.phantom.anatomy import Chest
from pneumo_nb.phantom.beam import LUNG_PER_MM, PER_MM, Picture

OPACITY_PER_MM = 0.02500 * 1.80  # hyaline collagen with silica and calcium: between soft tissue and bone
FIELD_LUNG_MM = 30  # aerated lung along the ray from which on a place counts as lung field; less lies behind the heart
LETTERS = {"p": (0.8, 1.5), "q": (1.5, 3.0), "r": (3.0, 10.0)}  # ILO 2011: diameters of rounded small opacities, mm
PER_ZONE = {"p": (60, 200, 500), "q": (40, 140, 320), "r": (22, 70, 140)}  # opacities in a zone at profusion 1, 2, 3
LARGE_MM = (28.0, 50.0)  # large opacities: longer than 10 mm
# Shares of stages I, II, III and of letters p, q, r among the positives. The stages of `screening` are of 495 cases
# of one coal mine (Han et al., Int J Environ Res Public Health 2015;12:7856); all other shares are ours.
MIXES = {"marked": ((0.12, 0.28, 0.6), (0.05, 0.15, 0.8)), "screening": ((0.71, 0.18, 0.11), (0.35, 0.45, 0.2))}
# Profusion of upper, middle and lower zones: three kinds of stage I, II and III.
ZONES = [(1, 0, 0), (1, 1, 0), (1, 1, 1)], [(2, 2, 2), (3, 2, 2), (3, 3, 1)], [(3, 3, 2), (3, 3, 3), (3, 2, 1)]


@dataclass(frozen=True)
class Disease:
    """What dust has done to one patient."""

    profusion: tuple[int, ...] = (0,) * 6  # upper, middle, lower zone of the left, then of the right of the picture
    letter: str = ""  # of the small opacities
    large: int = 0  # number of large opacities

    @property
    def stage(self) -> int:
        """0 to 3 (0, I, II, III), by our simplification of GBZ 70-2015.

        III with any large opacity; II with profusion 2 in more than four zones or 3 in at least four; I with profusion
        1 in at least two zones; less is stage 0.
        """
        zones = np.asarray(self.profusion)
        if self.large:
            return 3
        if (zones >= 2).sum() > 4 or (zones >= 3).sum() >= 4:
            return 2
        return int((zones >= 1).sum() >= 2)


def labels(patients: int, positives: int, seed: int = 0) -> np.ndarray:
    """0 or 1 for each patient in an order that follows from the seed, exactly `positives` of them 1."""
    if not 0 <= positives <= patients:
        raise ValueError(f"positives = {positives}: a number from 0 to patients = {patients} is right")
    return np.random.default_rng([seed, 0xD05]).permutation(np.arange(patients) < positives).astype(int)


def refuse_mix(mix: str) -> None:
    """ValueError, in one line, for a mix of disease without a name here."""
    if mix not in MIXES:
        raise ValueError(f"mix = {mix!r}: one of {', '.join(MIXES)} is right")


def contracted(rng: np.random.Generator, mix: str = "marked") -> Disease:
    """A case of stage I, II or III: upper zones before middle before lower, one side often a little ahead."""
    stages, letters = MIXES[mix]
    stage, letter = rng.choice([1, 2, 3], p=stages), str(rng.choice(list(LETTERS), p=letters))
    zones = np.array(ZONES[stage - 1][rng.integers(3)] * 2)
    if stage == 1 and zones[2] and rng.random() < 0.5:
        zones[rng.choice([2, 5])] = 0
    return Disease(tuple(zones.tolist()), letter, int(rng.integers(3, 7)) if stage == 3 else 0)


def opacities(picture: Picture, weakened, chest: Chest, disease: Disease, rng) -> tuple[np.ndarray, np.ndarray]:
    """Put the opacities of a disease into the lungs: mask (height, width) and diameters in mm, large ones last."""
    mask, zones, small, large = np.zeros(weakened.shape, bool), _zones(chest.lung), [], []
    for zone, profusion in zip(zones, disease.profusion, strict=True):
        if profusion:
            low, high = LETTERS[disease.letter]
            number = rng.poisson(PER_ZONE[disease.letter][profusion - 1])
            sizes = low + (high - low) * rng.beta(2.5, 1.5, number)
            small += zip(_places(picture, np.where(zone > FIELD_LUNG_MM, zone, 0), number, rng), sizes, strict=True)
    for number in range(disease.large):  # massive fibrosis: upper zones, on both sides
        upper = np.where(zones[3 * (number % 2)] > 60, 1.0, 0.0)
        large += zip(_places(picture, upper, 1, rng), rng.uniform(*LARGE_MM, 1), strict=True)
    for bodies, dense, dented in ((small, 1, 0.3), (large, 0.9, 0.35)):
        for place, size in bodies:
            depth = (OPACITY_PER_MM - LUNG_PER_MM) * dense * size
            rows, columns, seen = add_body(picture, weakened, place, size / 2, depth, dents=_dents(rng, dented))
            mask[rows, columns] |= seen
    return mask, np.array([size for _, size in small + large])


def look_alikes(picture: Picture, weakened, chest: Chest, rng) -> None:
    """What a healthy lung shows and a dusty one too: bright dots by themselves mean nothing."""
    lung = chest.lung.sum(0)
    blood, bone, stamp = PER_MM["blood"] - LUNG_PER_MM, PER_MM["bone"], partial(add_body, picture, weakened)
    central = lung * cv2.GaussianBlur(chest.blood, (0, 0), 12 / picture.grid_mm)
    for place in _places(picture, central, rng.poisson(rng.uniform(10, 60)), rng):  # vessels seen end-on
        stamp(place, rng.uniform(0.7, 2.4), blood * rng.uniform(3, 9), round_=False)
    for place in _places(picture, lung, min(rng.geometric(0.3) - 1, 9), rng):  # calcified granulomas
        stamp(place, rng.uniform(0.8, 3.5), bone * rng.uniform(1, 3.5), dents=_dents(rng, 0.3))
    on_bone = np.where((lung > 40) & (chest.bone > 2.5), 1.0, 0.0)
    for place in _places(picture, on_bone, rng.poisson(1.0), rng):  # bone islands
        stamp(place, rng.uniform(1.5, 4), bone * rng.uniform(1.5, 4))
    if rng.random() < 0.06:  # a solitary mass or scar
        radius = rng.uniform(5, 16)
        stamp(_places(picture, lung, 1, rng)[0], radius, blood * 1.4 * radius, dents=_dents(rng, 0.35))
    if rng.random() < 0.25:  # nipples
        for side in (-1, 1):
            cell = chest.build.to_grid([(side * rng.uniform(76, 92), rng.uniform(48, 72))])
            place = picture.to_pixels(cell, lung.shape)[0]
            stamp(place, rng.uniform(3.5, 5), PER_MM["soft"] * rng.uniform(3, 7), round_=False)
    if rng.random() < 0.12:  # electrodes: a gel pad with a metal snap
        for place in _places(picture, lung, 3, rng):
            stamp(place, 11, 0.03, round_=False)
            stamp(place, 2.5, 0.8, round_=False)


def _zones(lung: np.ndarray) -> list[np.ndarray]:
    """ILO: each lung in thirds of its height; upper, middle, lower of the left, then of the right of the picture."""
    parts = []
    for one in lung:
        rows, at = np.flatnonzero(one.max(1) > 40), np.arange(len(one))
        edges = np.linspace(rows[0], rows[-1] + 1, 4).astype(int)
        parts += [((at >= a) & (at < b))[:, None] * one for a, b in pairwise(edges)]
    return parts


def _places(picture: Picture, weight: np.ndarray, number: int, rng) -> np.ndarray:
    """`number` places in pixels (columns, rows), as dense as `weight` on the grid says."""
    total = np.cumsum(weight, dtype=np.float64)
    if total[-1] <= 0 or not number:
        return np.zeros((0, 2))
    cell = np.searchsorted(total, rng.random(number) * total[-1], side="right")
    row, column = np.divmod(np.minimum(cell, weight.size - 1), weight.shape[1])
    return picture.to_pixels(np.stack([column, row], 1) + rng.uniform(-0.5, 0.5, (number, 2)), weight.shape)


def _dents(rng, amplitude: float) -> tuple[float, float, float]:
    return (amplitude, *rng.uniform(0, 6, 2))


def add_body(picture: Picture, target, place, radius_mm: float, depth: float, round_: bool = True, dents=(0, 0, 0)):
    """Add a small body to the attenuation: `depth` at its middle, falling to its edge like a sphere's or a disc's.

    Smaller than a pixel it keeps its mass, not its size. `dents` (amplitude, two phases) shrink it here and there, and
    never widen it. Returns the window and the mask within it.
    """
    radius = max(radius_mm / picture.spacing, 0.7)
    depth = depth * min(radius_mm / picture.spacing / radius, 1.0) ** 2
    rows, columns = picture.window(*place, radius + 1)
    y, x = np.ogrid[rows, columns]
    dx, dy = np.float32(x - place[0]), np.float32(y - place[1])
    if dents[0]:
        angle = np.arctan2(dy, dx)
        wave = 0.6 * np.sin(2 * angle + dents[1]) + 0.4 * np.sin(3 * angle + dents[2])
        radius = radius * (1 - dents[0] * (1 + wave) / 2)
    inner = np.maximum(1 - (dx**2 + dy**2) / np.float32(radius) ** 2, 0)
    target[rows, columns] += np.float32(depth) * (inner**0.7 if round_ else np.minimum(3 * inner, 1))
    return rows, columns, inner > 0
