"""Synthetic chest radiographs with known opacities: the beam, the detector and the disease.

A patient (`anatomy`) is path lengths of tissue; the beam is weakened by Beer and Lambert's law, scattered, blurred and
counted in quanta; the detector answers with the logarithm, in 12 bits. Pneumoconiosis adds small spheres to the lungs
by the terms of the ILO (2011); healthy lungs hold things that look like them. A picture follows from (seed, index).
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from pneumo_nb.phantom import anatomy

VERSION = 1  # of the generator: pictures of two versions differ
SMALLEST_SIDE, WIDEST_SHAPE = 128, 1.5  # pixels; the longer side over the shorter

# Linear attenuation per mm at 60 keV, the mean of a filtered 120 kVp beam: NIST XCOM mass coefficients (cm2/g) of the
# ICRU-44 tissues, times density (g/cm3), over 10.
PER_MM = {
    "soft": 0.2048 * 1.06 / 10,
    "fat": 0.1974 * 0.95 / 10,
    "bone": 0.3148 * 1.92 / 10,
    "blood": 0.2057 * 1.06 / 10,
}
LUNG_PER_MM = 0.2053 * 0.26 / 10
OPACITY_PER_MM = 0.2500 * 1.80 / 10  # hyaline collagen with silica and calcium: between soft tissue and bone
QUANTA_PER_MM2 = 45_000  # detected behind the patient: 2.5 uGy of 30,000 quanta / mm2 / uGy, of which 60 % count
WHITE = 4095  # 12 bits
GRID_MM = 0.65, 1.6  # the bodies are smooth: they are drawn at most and at least so finely, and enlarged

LETTERS = {"p": (0.8, 1.5), "q": (1.5, 3.0), "r": (3.0, 10.0)}  # ILO 2011: diameters of rounded small opacities, mm
PER_ZONE = {"p": (60, 200, 500), "q": (40, 140, 320), "r": (22, 70, 140)}  # opacities in a zone at profusion 1, 2, 3
LARGE_MM = (28.0, 50.0)  # large opacities: longer than 10 mm


@dataclass(frozen=True)
class Phantom:
    """One synthetic radiograph and the truth about it.

    `pixels` (height, width) uint16 of 12 bits, stored as `photometric` says; `lungs` and `opacities` (height, width)
    bool: aerated lung and pneumoconiotic opacities as projected; `profusion` 0 to 3 for upper, middle and lower zone
    of the left, then of the right of the picture; `diameters_mm` of every opacity, large ones last; `letter` p, q, r or
    ''; `window` centre and width.
    """

    pixels: np.ndarray
    lungs: np.ndarray
    opacities: np.ndarray
    stage: int
    label: int
    profusion: tuple[int, ...]
    letter: str
    diameters_mm: np.ndarray
    photometric: str
    spacing_mm: float
    window: tuple[int, int]
    sex: str


@dataclass(frozen=True)
class Disease:
    """What dust has done: profusion in six zones, the letter of the small opacities, the number of large ones."""

    profusion: tuple[int, ...] = (0,) * 6
    letter: str = ""
    large: int = 0


def stage_of(profusion, large: int = 0) -> int:
    """Stage 0 to 3 (0, I, II, III) from the profusions 0 to 3 of the six zones and the number of large opacities.

    Our simplification of GBZ 70-2015: III with any large opacity; II with profusion 2 in more than four zones or 3
    in at least four; I with profusion 1 in at least two zones; less is stage 0.
    """
    zones = np.asarray(profusion)
    if large:
        return 3
    if (zones >= 2).sum() > 4 or (zones >= 3).sum() >= 4:
        return 2
    return int((zones >= 1).sum() >= 2)


def labels(patients: int, positives: int, seed: int = 0) -> np.ndarray:
    """0 or 1 for each patient in an order that follows from the seed, exactly `positives` of them 1."""
    if not 0 <= positives <= patients:
        raise ValueError(f"positives = {positives}: a number from 0 to patients = {patients} is right")
    return np.random.default_rng([seed, 0xD05]).permutation(np.arange(patients) < positives).astype(int)


def render(index: int, positive: bool, width: int = 2776, height: int = 2876, seed: int = 0) -> Phantom:
    """The radiograph of patient `index`, with or without pneumoconiosis; all else about him is the same either way."""
    refuse_size(width, height)
    who, extras, beam, dust, quanta = (np.random.default_rng([seed, index, part]) for part in range(5))
    spacing = min(anatomy.FIELD_MM[0] / width, anatomy.FIELD_MM[1] / height) * beam.choice([1.0, 0.985, 0.97])
    chest = anatomy.chest(who, float(np.clip(spacing, *GRID_MM)))
    picture = _Picture(width, height, spacing, chest.build.grid_mm)
    weakened = picture.enlarged(_attenuation(chest), cv2.INTER_CUBIC)
    lungs = picture.enlarged(chest.lung.sum(0), cv2.INTER_LINEAR) > 12
    _look_alikes(picture, weakened, chest, extras)
    disease = _contracted(dust) if positive else Disease()
    opacities, diameters = _opacities(picture, weakened, chest, disease, dust)
    values = _detected(picture, weakened, chest, beam, quanta)
    photometric = "MONOCHROME1" if beam.random() < 1 / 3 else "MONOCHROME2"
    width12 = int(beam.integers(3500, 4097))
    centre = int(beam.integers(1950, 2150))
    if photometric == "MONOCHROME1":
        values, centre = WHITE - values, WHITE + 1 - centre
    stage = stage_of(disease.profusion, disease.large)
    return Phantom(
        pixels=values,
        lungs=lungs,
        opacities=opacities & lungs,
        stage=stage,
        label=int(stage > 0),
        profusion=disease.profusion,
        letter=disease.letter,
        diameters_mm=diameters,
        photometric=photometric,
        spacing_mm=float(spacing),
        window=(centre, width12),
        sex="F" if chest.build.breast else "M",
    )


def refuse_size(width: int, height: int) -> None:
    """ValueError, in one line, for a picture that is too small or too long to show a chest."""
    if min(width, height) < SMALLEST_SIDE or max(width, height) > WIDEST_SHAPE * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels: sides of at least {SMALLEST_SIDE} are right, "
            f"and none longer than {WIDEST_SHAPE} times the other"
        )


@dataclass(frozen=True)
class _Picture:
    """Where millimetres in the plane of the detector, and the grid of the bodies, lie among the pixels."""

    width: int
    height: int
    spacing: float
    grid_mm: float

    def enlarged(self, grid: np.ndarray, interpolation: int) -> np.ndarray:
        """A map on the grid -> (height, width) of float32."""
        factor = self.spacing / self.grid_mm
        if factor > 1:
            grid = cv2.GaussianBlur(grid, (0, 0), 0.45 * factor)
        shift = [(np.array(grid.shape[::-1]) - 1) / 2 - factor * (np.array([self.width, self.height]) - 1) / 2]
        matrix = np.hstack([np.eye(2) * factor, np.transpose(shift)])
        size, edge = (self.width, self.height), cv2.BORDER_REPLICATE
        return cv2.warpAffine(grid, matrix, size, flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=edge)

    def to_pixels(self, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Grid columns and rows (n, 2) -> pixel columns and rows."""
        middle, centre = (np.array(shape[::-1]) - 1) / 2, (np.array([self.width, self.height]) - 1) / 2
        return (cells - middle) * self.grid_mm / self.spacing + centre

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns within `reach` pixels of a place."""
        return (
            slice(max(int(y - reach), 0), max(min(int(y + reach) + 2, self.height), 0)),
            slice(max(int(x - reach), 0), max(min(int(x + reach) + 2, self.width), 0)),
        )


def _attenuation(chest: anatomy.Chest) -> np.ndarray:
    """Sum of coefficient times path length of all tissues, on the grid; blood takes the place of lung."""
    total = chest.lung.sum(0) * np.float32(LUNG_PER_MM)
    total -= chest.blood * np.float32(LUNG_PER_MM)
    for tissue, per_mm in PER_MM.items():
        total += getattr(chest, tissue) * np.float32(per_mm)
    return total


def _detected(picture: _Picture, weakened: np.ndarray, chest: anatomy.Chest, beam, quanta) -> np.ndarray:
    """Beam -> 12-bit values, (height, width) of uint16, white where dense."""
    _collimate_and_mark(picture, weakened, chest, beam)
    primary = np.exp(-weakened)
    primary = cv2.GaussianBlur(
        primary, (0, 0), max(0.18 / picture.spacing, 0.5), dst=primary
    )  # focal spot and detector
    small, depth = (cv2.resize(full, (128, 128), interpolation=cv2.INTER_AREA) for full in (primary, weakened))
    # behind a grid scatter grows with what the beam went through, and strays over some 30 mm
    scatter = cv2.GaussianBlur(small * np.minimum(depth, 6), (0, 0), 9, borderType=cv2.BORDER_REPLICATE) * beam.uniform(
        0.12, 0.3
    )
    primary += cv2.resize(np.float32(scatter), (picture.width, picture.height), interpolation=cv2.INTER_LINEAR)
    behind = float(
        np.median(small[16:112, 16:112] + scatter[16:112, 16:112])
    )  # the detector scales itself to the patient
    counted = QUANTA_PER_MM2 * picture.spacing**2 / behind * beam.lognormal(0, 0.5)
    noise = quanta.standard_normal(primary.shape, np.float32)
    noise *= np.sqrt(primary / np.float32(counted))  # Poisson, as a Gaussian: there are many quanta in each pixel
    primary += noise
    np.maximum(primary, np.float32(1e-4 * behind), out=primary)
    steep, middle = 4 / beam.uniform(2.6, 4.2), beam.normal(0.1, 0.3)
    # white / (1 + exp(-steep (density - middle))) with density = ln(behind / signal): a power of the signal
    primary *= np.float32(np.exp(middle) / behind)
    curve = WHITE / (1 + cv2.pow(primary, steep))
    return np.rint(curve).astype(np.uint16)


def _collimate_and_mark(picture: _Picture, weakened: np.ndarray, chest: anatomy.Chest, beam) -> None:
    """Lead: the edges of the collimator, and the letter that says which side is which."""
    height, width = weakened.shape
    edges = np.round(np.maximum(beam.uniform(-30, 18, 4), 0) / picture.spacing).astype(int)
    left, right, top, bottom = edges
    lead = beam.uniform(3, 6)
    weakened[:top] += lead
    weakened[height - bottom :] += lead
    weakened[:, :left] += lead
    weakened[:, width - right :] += lead
    letter = np.zeros((64, 64), np.uint8)
    side = beam.choice([-1, 1])
    cv2.putText(
        letter, "R" if side < 0 else "L", (10, 54), cv2.FONT_HERSHEY_SIMPLEX, 2.2, 255, int(beam.integers(5, 9))
    )
    size = max(int(beam.uniform(14, 22) / picture.spacing), 6)
    lead = cv2.resize(letter, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) * (4 / 255)
    x, y = np.array([side * beam.uniform(135, 165), beam.uniform(-195, -160)]) / picture.spacing + (
        width / 2,
        height / 2,
    )
    rows, columns = picture.window(x, y, size / 2 - 1)
    patch = weakened[rows, columns]
    patch += lead[: patch.shape[0], : patch.shape[1]]


def _stamp(picture: _Picture, target, place, radius_mm: float, depth: float, round_: bool = True, bumps=(0, 0, 0)):
    """Add a small body to the attenuation: `depth` at its middle, falling to its edge like a sphere's or a disc's.

    Smaller than a pixel it keeps its mass, not its size. `bumps` (amplitude, two phases) dent it, never widen it.
    Returns the window and the mask within it.
    """
    radius = max(radius_mm / picture.spacing, 0.7)
    depth = depth * min(radius_mm / picture.spacing / radius, 1.0) ** 2
    rows, columns = picture.window(*place, radius + 1)
    y, x = np.ogrid[rows, columns]
    dx, dy = np.float32(x - place[0]), np.float32(y - place[1])
    if bumps[0]:
        angle = np.arctan2(dy, dx)
        radius = radius * (
            1 - bumps[0] * (1 + 0.6 * np.sin(2 * angle + bumps[1]) + 0.4 * np.sin(3 * angle + bumps[2])) / 2
        )
    inner = np.maximum(1 - (dx**2 + dy**2) / np.float32(radius) ** 2, 0)
    target[rows, columns] += np.float32(depth) * (inner**0.7 if round_ else np.minimum(3 * inner, 1))
    return rows, columns, inner > 0


def _places(picture: _Picture, weight: np.ndarray, number: int, rng) -> np.ndarray:
    """`number` places in pixels (columns, rows), as dense as `weight` on the grid says."""
    total = np.cumsum(weight, dtype=np.float64)
    if total[-1] <= 0 or not number:
        return np.zeros((0, 2))
    cell = np.searchsorted(total, rng.random(number) * total[-1], side="right")
    row, column = np.divmod(np.minimum(cell, weight.size - 1), weight.shape[1])
    return picture.to_pixels(np.stack([column, row], 1) + rng.uniform(-0.5, 0.5, (number, 2)), weight.shape)


def _look_alikes(picture: _Picture, weakened, chest: anatomy.Chest, rng) -> None:
    """What a healthy lung shows and a dusty one too: bright dots by themselves mean nothing."""
    lung = chest.lung.sum(0)
    blood, bone = PER_MM["blood"] - LUNG_PER_MM, PER_MM["bone"]
    central = lung * cv2.GaussianBlur(chest.blood, (0, 0), 12 / picture.grid_mm)
    for place in _places(picture, central, rng.poisson(rng.uniform(10, 60)), rng):  # vessels seen end-on
        _stamp(picture, weakened, place, rng.uniform(0.7, 2.4), blood * rng.uniform(3, 9), round_=False)
    for place in _places(picture, lung, min(rng.geometric(0.3) - 1, 9), rng):  # calcified granulomas
        _stamp(
            picture,
            weakened,
            place,
            rng.uniform(0.8, 3.5),
            bone * rng.uniform(1, 3.5),
            bumps=(0.3, *rng.uniform(0, 6, 2)),
        )
    on_bone = np.where((lung > 40) & (chest.bone > 2.5), 1.0, 0.0)
    for place in _places(picture, on_bone, rng.poisson(1.0), rng):  # bone islands
        _stamp(picture, weakened, place, rng.uniform(1.5, 4), bone * rng.uniform(1.5, 4))
    if rng.random() < 0.06:  # a solitary mass or scar
        (place,) = _places(picture, lung, 1, rng)
        radius = rng.uniform(5, 16)
        _stamp(picture, weakened, place, radius, blood * 1.4 * radius, bumps=(0.35, *rng.uniform(0, 6, 2)))
    if rng.random() < 0.25:  # nipples
        for side in (-1, 1):
            cell = chest.build.to_grid([(side * rng.uniform(76, 92), rng.uniform(48, 72))])
            place = picture.to_pixels(cell, lung.shape)[0]
            _stamp(picture, weakened, place, rng.uniform(3.5, 5), PER_MM["soft"] * rng.uniform(3, 7), round_=False)
    if rng.random() < 0.12:  # electrodes: a gel pad with a metal snap
        for place in _places(picture, lung, 3, rng):
            _stamp(picture, weakened, place, 11, 0.03, round_=False)
            _stamp(picture, weakened, place, 2.5, 0.8, round_=False)


def _contracted(rng) -> Disease:
    """A case of stage I, II or III: upper zones before middle before lower, one side often a little ahead."""
    stage = rng.choice([1, 2, 3], p=[0.12, 0.28, 0.6])
    letter = str(rng.choice(["p", "q", "r"], p=[0.05, 0.15, 0.8]))
    by_height = {
        1: [(1, 0, 0), (1, 1, 0), (1, 1, 1)],
        2: [(2, 2, 2), (3, 2, 2), (3, 3, 1)],
        3: [(3, 3, 2), (3, 3, 3), (3, 2, 1)],
    }
    zones = np.array(by_height[stage][rng.integers(3)] * 2)
    if stage == 1 and zones[2] and rng.random() < 0.5:
        zones[rng.choice([2, 5])] = 0
    return Disease(tuple(int(zone) for zone in zones), letter, int(rng.integers(3, 7)) if stage == 3 else 0)


def _zones(lung: np.ndarray) -> list[np.ndarray]:
    """ILO: each lung in thirds of its height; upper, middle, lower of the left, then of the right of the picture."""
    parts = []
    for one in lung:
        rows = np.flatnonzero(one.max(1) > 40)
        edges = np.linspace(rows[0], rows[-1] + 1, 4).astype(int)
        parts += [
            np.where((np.arange(len(one)) >= a) & (np.arange(len(one)) < b), 1, 0)[:, None] * one
            for a, b in pairwise(edges)
        ]
    return parts


def _opacities(
    picture: _Picture, weakened, chest: anatomy.Chest, disease: Disease, rng
) -> tuple[np.ndarray, np.ndarray]:
    """Put the opacities of a disease into the lungs: their mask (height, width) and their diameters in mm."""
    mask, diameters, zones = np.zeros(weakened.shape, bool), [], _zones(chest.lung)
    per_mm = OPACITY_PER_MM - LUNG_PER_MM
    for zone, profusion in zip(zones, disease.profusion, strict=True):
        if not profusion:
            continue
        low, high = LETTERS[disease.letter]
        number = rng.poisson(PER_ZONE[disease.letter][profusion - 1])
        sizes = low + (high - low) * rng.beta(2.5, 1.5, number)
        inside = np.where(zone > 30, zone, 0)
        for place, size in zip(_places(picture, inside, number, rng), sizes, strict=True):
            rows, columns, seen = _stamp(
                picture, weakened, place, size / 2, per_mm * size, bumps=(0.3, *rng.uniform(0, 6, 2))
            )
            mask[rows, columns] |= seen
            diameters.append(size)
    for number in range(disease.large):  # massive fibrosis: upper zones, on both sides
        upper = zones[3 * (number % 2)]
        size = rng.uniform(*LARGE_MM)
        (place,) = _places(picture, np.where(upper > 60, 1.0, 0.0), 1, rng)
        rows, columns, seen = _stamp(
            picture, weakened, place, size / 2, per_mm * 0.9 * size, bumps=(0.35, *rng.uniform(0, 6, 2))
        )
        mask[rows, columns] |= seen
        diameters.append(size)
    return mask, np.array(diameters)
