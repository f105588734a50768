"""Opacities of known size put into healthy radiographs, and whether they can still be found at a pixel size.

Into the phantom they go before the detector, as millimetres of tissue; into other radiographs by the local slope of the
grey scale, which is the phantom's, carried over by the ranks of the grey levels.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

import cv2
import numpy as np
from scipy import stats
from scipy.integrate import cumulative_trapezoid
from scipy.ndimage import map_coordinates
from scipy.special import eval_laguerre

from pneumo_nb.phantom import beam, disease, radiograph
from pneumo_nb.prepare import images
from pneumo_nb.prepare.convert import equalise

CHANNELS, WIDTH = 8, 1.0  # Laguerre-Gauss functions of the observer; their width over the opacity's diameter
REACH, SAMPLES = 2.2, 61  # where the channels end, in widths; how finely they are sampled
APART_MM = 11  # between the middles of two places
RANKS = np.linspace(0, 1, 33)  # of grey levels, at which the slope is known


def healthy(index: int, seed: int = 0, width: int = 2776, height: int = 2876) -> tuple:
    """The healthy phantom of that index and seed as `radiograph.render` makes it, held before the detector.

    Returns beam.Picture, anatomy.Chest, and a function: more attenuation (height, width), or 0 -> values (height,
    width), uint16 of 12 bits, white where dense, always with the same noise.
    """
    picture, chest, weakened, (room, _, quanta) = radiograph.healthy(index, seed, width, height)
    return picture, chest, lambda more: beam.detected(picture, weakened + more, deepcopy(room), deepcopy(quanta))


def opacity(picture: beam.Picture, target: np.ndarray, place, diameter_mm: float, rng: np.random.Generator) -> None:
    """Add one rounded small opacity to the attenuation `target`, like those of `disease.opacities`."""
    depth = (disease.OPACITY_PER_MM - disease.LUNG_PER_MM) * diameter_mm
    disease.add_body(picture, target, place, diameter_mm / 2, depth, dents=(0.3, *rng.uniform(0, 6, 2)))


def trial(index: int, diameters: Sequence[float], number: int, seed: int = 0, **size: int) -> tuple:
    """One healthy phantom with `number` opacities of each diameter, and thrice as many places without.

    Returns values (height, width) as of `healthy`, mm a pixel, and a dict of places (n, 2) as columns and rows of
    pixels: for each diameter, and for None those without. ValueError if the lungs do not hold so many.
    """
    picture, chest, detected = healthy(index, seed, **size)
    rng, lung = np.random.default_rng([seed, index, 0xD1]), chest.lung.sum(0)
    inside, found = rng.permutation(np.argwhere(lung > disease.FIELD_LUNG_MM)), np.zeros((0, 2))
    wanted = number * (len(diameters) + 3)
    for cell in inside:
        if len(found) < wanted and not (np.hypot(*(found - cell).T) * picture.grid_mm < APART_MM).any():
            found = np.vstack([found, cell])
    if len(found) < wanted:
        raise ValueError(f"{wanted} places {APART_MM} mm apart: the lungs hold {len(found)}; take fewer of a diameter")
    places = picture.to_pixels(rng.permutation(found)[:, ::-1], lung.shape)  # the last ones found fill gaps
    more = np.zeros((picture.height, picture.width), np.float32)
    parts = dict(zip([*diameters, None], np.split(places, number * np.arange(1, len(diameters) + 1)), strict=True))
    for diameter in filter(None, diameters):
        for place in parts[diameter]:
            opacity(picture, more, place, diameter, rng)
    return detected(more), picture.spacing, parts


def shown(values: np.ndarray, bits: int = 8, equalised: bool = True) -> np.ndarray:
    """Values of 12 bits -> grey levels of uint8 or uint16, by global histogram equalisation or as they are."""
    grey = images.levels(values / beam.WHITE, bits)
    return equalise(grey) if equalised else grey


def responses(image: np.ndarray, places: np.ndarray, spacing_mm: float, width: int, height: int, diameter_mm: float):
    """What the observer's channels see at places of a picture, whole or shrunk: (places, CHANNELS).

    `places` are pixels of the original of width x height pixels of `spacing_mm`; `image` is what is left of it, and is
    interpolated linearly. The channels are those of Gallas and Barrett 2003, J. Opt. Soc. Am. A 20:1725.
    """
    across, down = image.shape[1] / width, image.shape[0] / height
    a = WIDTH * np.hypot(max(diameter_mm, 1), spacing_mm / min(across, down))  # a pixel blurs what it shows
    offset = np.linspace(-REACH * a, REACH * a, SAMPLES)
    square = 2 * np.pi * (offset**2 + offset[:, None] ** 2) / a**2
    functions = np.exp(-square / 2) * eval_laguerre(np.arange(CHANNELS)[:, None, None], square)
    found = []
    for x, y in places:
        columns = (x + 0.5 + offset / spacing_mm) * across - 0.5
        rows = (y + 0.5 + offset / spacing_mm) * down - 0.5
        seen = map_coordinates(image, np.meshgrid(rows, columns, indexing="ij"), np.float32, order=1, mode="nearest")
        found.append(np.tensordot(functions, seen, 2) / SAMPLES**2)
    return np.array(found)


def observer(present: np.ndarray, absent: np.ndarray) -> tuple[float, float, float]:
    """AUC of the ideal linear (Hotelling) observer who knows place and size, and its 95 % interval.

    `present` and `absent` are responses (radiographs, places, channels) of six radiographs or more. He learns from
    every other one and is tested on the rest, then the other way round. The interval takes places of one radiograph as
    one cluster (Obuchowski 1997, Biometrics 53:567).
    """
    aucs, variances = [], []
    for half in (0, 1):
        tested, learnt = (np.arange(len(present)) % 2 == part for part in (half, 1 - half))
        known = [of[learnt].reshape(-1, of.shape[-1]) for of in (absent, present)]
        spread = sum(np.cov(of.T) for of in known) / 2
        template = np.linalg.pinv(spread, 1e-9, hermitian=True) @ (known[1].mean(0) - known[0].mean(0))
        without, having = absent[tested] @ template, present[tested] @ template
        won = (np.sign(having[:, None, :, None] - without[None, :, None, :]).mean((2, 3)) + 1) / 2  # of each by each
        parts = won.mean(0) + won.mean(1) - 2 * won.mean()
        aucs.append(won.mean())
        variances.append((parts**2).sum() / len(won) / (len(won) - 1))
    auc, reach = np.mean(aucs), stats.t.ppf(0.975, len(present) - 2) * np.sqrt(sum(variances)) / 2
    return float(auc), float(max(auc - reach, 0)), float(min(auc + reach, 1))


@cache
def slopes(phantoms: int = 8, seed: int = 2**20) -> np.ndarray:
    """By how much the rank of a grey level (0 to 1) rises with attenuation, at RANKS, in the lungs of the phantom."""
    products = np.zeros((2, len(RANKS)))
    for index in range(phantoms):
        picture, chest, detected = healthy(index, seed, width=512, height=530)
        more, rng = np.zeros((530, 512), np.float32), np.random.default_rng([seed, index])
        disease.opacities(picture, more, chest, disease.Disease((1,) * 6, "r"), rng)
        before, after = detected(0), detected(more)
        rank = ranks(before)
        rise, nearest = rank[after] - rank[before], np.rint(rank[before] * (len(RANKS) - 1)).astype(int)
        for product, one in zip(products, (rise, more), strict=True):
            product += np.bincount(nearest[more > 0], (one * more)[more > 0], len(RANKS))
    known = products[1] > 0.01 * products[1].max()
    return np.interp(RANKS, RANKS[known], products[0][known] / products[1][known])


def ranks(image: np.ndarray) -> np.ndarray:
    """For every grey level of a radiograph the share of its pixels that are darker, and half of its own."""
    counts = images.histogram(image)
    return (counts.cumsum() - counts / 2) / image.size


def sow(picture: beam.Picture, target: np.ndarray, letter: str, profusion: int, lungs: np.ndarray, rng) -> None:
    """Add small opacities of an ILO letter to the attenuation `target` (height, width), as the phantom has them.

    `profusion` 1 to 3 is that of all six zones. They lie as densely as `lungs` (height, width) says, bool or weights.
    """
    low, high = disease.LETTERS[letter]
    number, dense = rng.poisson(6 * disease.PER_ZONE[letter][profusion - 1]), lungs.cumsum(dtype=np.float64)
    for cell in np.searchsorted(dense, rng.random(number) * dense[-1], side="right"):
        opacity(picture, target, divmod(cell, target.shape[1])[::-1], low + (high - low) * rng.beta(2.5, 1.5), rng)


def implanted(image: np.ndarray, spacing_mm: float, letter: str, profusion: int, lungs: np.ndarray, seed: int):
    """A healthy radiograph (height, width) of uint8 or uint16 with small opacities (see `sow`).

    What an opacity adds is its attenuation times the local slope of the grey scale; all else is left as it is.
    """
    picture, more = beam.Picture(*image.shape[::-1], spacing_mm, spacing_mm), np.zeros(image.shape, np.float32)
    sow(picture, more, letter, profusion, lungs, np.random.default_rng([seed, 0xF1]))
    more = cv2.GaussianBlur(more, (0, 0), 0.5)  # a pixel shows the mean of what lies before it
    rank, used, weakened = ranks(image), np.unique(image), cumulative_trapezoid(1 / slopes(), RANKS, initial=0)
    after = np.interp(np.interp(rank[image], RANKS, weakened) + more, weakened, RANKS)
    after = np.interp(after, rank[used], used)
    return np.where(more > 0, np.rint(after), image).astype(image.dtype)
