"""Opacities of known size put into healthy radiographs, and whether they can still be found at a pixel size.

Into the phantom they go before the detector, as millimetres of tissue; into other radiographs by the local slope of the
grey scale, which is the phantom's, carried over by the ranks of the grey levels.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

import cv2
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.special import eval_laguerre

from pneumo_nb.phantom import anatomy, beam, disease, radiograph
from pneumo_nb.phantom.bodies import FIELD_MM
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
    radiograph.refuse_size(width, height)
    who, extras, room, _, quanta = (np.random.default_rng([seed, index, part]) for part in range(5))
    spacing = float(min(FIELD_MM[0] / width, FIELD_MM[1] / height) * room.choice([1.0, 0.985, 0.97]))
    chest = anatomy.chest(who, float(np.clip(spacing, *radiograph.GRID_MM)))
    picture = beam.Picture(width, height, spacing, chest.build.grid_mm)
    weakened = picture.enlarged(beam.attenuation(chest), cv2.INTER_CUBIC)
    disease.look_alikes(picture, weakened, chest, extras)
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


def observer(present: np.ndarray, absent: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """AUC of the ideal linear (Hotelling) observer who knows place and size, and its 95 % interval.

    `present` and `absent` are responses (radiographs, places, channels). He learns from every other radiograph and is
    tested on the rest, then the other way round; the interval is a bootstrap over radiographs.
    """
    won = []  # for each half: how often a place with opacity scores above one without, radiograph against radiograph
    for half in (0, 1):
        tested, learnt = (np.arange(len(present)) % 2 == part for part in (half, 1 - half))
        known = [responses[learnt].reshape(-1, responses.shape[-1]) for responses in (absent, present)]
        spread = sum(np.cov(responses.T) for responses in known) / 2
        template = np.linalg.pinv(spread, 1e-9, hermitian=True) @ (known[1].mean(0) - known[0].mean(0))
        without, having = absent[tested] @ template, present[tested] @ template
        won.append((np.sign(having[:, None, :, None] - without[None, :, None, :]).mean((2, 3)) + 1) / 2)
    rng, drawn = np.random.default_rng(seed), np.zeros(draws)
    for half in won:
        times = rng.multinomial(len(half), np.full(len(half), 1 / len(half)), draws) / len(half)
        drawn += np.einsum("di,ij,dj->d", times, half, times) / 2
    return float(np.mean([half.mean() for half in won])), *map(float, np.quantile(drawn, (0.025, 0.975)))


@cache
def slopes(phantoms: int = 8, seed: int = 2**20) -> np.ndarray:
    """By how much the rank of a grey level (0 to 1) rises with attenuation, at RANKS, in the lungs of the phantom."""
    products = np.zeros((2, len(RANKS)))
    for index in range(phantoms):
        picture, chest, detected = healthy(index, seed, width=512, height=530)
        more, rng = np.zeros((530, 512), np.float32), np.random.default_rng([seed, index])
        disease.opacities(picture, more, chest, disease.Disease((3,) * 6, "r"), rng)
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


def implanted(image: np.ndarray, spacing_mm: float, letter: str, profusion: int, seed: int, lungs: np.ndarray):
    """A healthy radiograph (height, width) of uint8 or uint16 with small opacities, in numbers as in the phantom.

    `lungs` (height, width) of bool are where they may lie. All else is left as it is: what an opacity adds is its
    attenuation times the local slope of the grey scale.
    """
    rng, (height, width) = np.random.default_rng([seed, 0xF1]), image.shape
    picture, more = beam.Picture(width, height, spacing_mm, spacing_mm), np.zeros(image.shape, np.float32)
    low, high = disease.LETTERS[letter]
    where = np.argwhere(lungs)[:, ::-1]
    number = rng.poisson(6 * disease.PER_ZONE[letter][profusion - 1])
    for place in where[rng.integers(len(where), size=number)]:
        opacity(picture, more, place, low + (high - low) * rng.beta(2.5, 1.5), rng)
    rank, levels = ranks(image), np.arange(len(ranks(image)))
    used = np.unique(image)
    before = rank[image]
    after = np.interp(before + np.interp(before, RANKS, slopes()) * more, rank[used], levels[used])
    return np.where(more > 0, np.rint(after), image).astype(image.dtype)


def fields(shape: tuple[int, int]) -> np.ndarray:
    """Where the lungs lie in most frontal radiographs, (height, width) of bool: a guess, where no mask is known."""
    inside = np.zeros(shape, bool)
    rows = slice(round(0.2 * shape[0]), round(0.65 * shape[0]))
    for left in (0.17, 0.6):
        inside[rows, round(left * shape[1]) : round((left + 0.23) * shape[1])] = True
    return inside
