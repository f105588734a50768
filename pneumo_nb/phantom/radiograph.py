"""One synthetic chest radiograph with the truth about it, which follow from seed, index and mix of disease."""

from dataclasses import dataclass

import cv2
import numpy as np

from pneumo_nb.phantom import anatomy, beam, disease
from pneumo_nb.phantom.bodies import FIELD_MM
from pneumo_nb.phantom.disease import Disease

VERSION = 2  # of the generator: pictures of two versions differ
SMALLEST_SIDE, WIDEST_SHAPE = 128, 1.5  # pixels; the longer side over the shorter
GRID_MM = 0.65, 1.6  # the bodies are smooth: they are drawn at most and at least so finely, and enlarged


@dataclass(frozen=True)
class Phantom:
    """One synthetic radiograph and the truth about it."""

    pixels: np.ndarray  # (height, width) uint16 of 12 bits, stored as `photometric` says
    lungs: np.ndarray  # (height, width) bool: rays through more than disease.FIELD_LUNG_MM of aerated lung
    opacities: np.ndarray  # (height, width) bool: pneumoconiotic opacities as projected
    disease: Disease
    diameters_mm: np.ndarray  # of every opacity, the `disease.large` large ones last
    photometric: str
    spacing_mm: float
    window: tuple[int, int]  # centre and width
    sex: str


def render(
    index: int, positive: bool, width: int = 2776, height: int = 2876, seed: int = 0, mix: str = "marked"
) -> Phantom:
    """The radiograph of patient `index`, with or without pneumoconiosis; all else about him is the same either way."""
    disease.refuse_mix(mix)
    picture, chest, weakened, (room, dust, quanta) = healthy(index, seed, width, height)
    lungs = picture.enlarged(chest.lung.sum(0), cv2.INTER_LINEAR) > disease.FIELD_LUNG_MM
    found = disease.contracted(dust, mix) if positive else Disease()
    opacities, diameters = disease.opacities(picture, weakened, chest, found, dust)
    values = beam.detected(picture, weakened, room, quanta)
    photometric = "MONOCHROME1" if room.random() < 1 / 3 else "MONOCHROME2"
    wide = int(room.integers(3600, 4097))
    centre = int(room.integers(4000, 4150)) - wide // 2  # the dense end is shown whole, air may be cut off
    if photometric == "MONOCHROME1":
        values, centre = beam.WHITE - values, beam.WHITE + 1 - centre
    sex, window = "F" if chest.build.breast else "M", (centre, wide)
    return Phantom(values, lungs, opacities & lungs, found, diameters, photometric, picture.spacing, window, sex)


def healthy(index: int, seed: int, width: int, height: int) -> tuple:
    """Patient `index` without disease, before the detector: beam.Picture, anatomy.Chest, attenuation (height, width).

    Last the random generators of what is still to be drawn: the room, the dust that he has breathed, the quanta.
    """
    refuse_size(width, height)
    who, extras, room, *others = (np.random.default_rng([seed, index, part]) for part in range(5))
    spacing = float(min(FIELD_MM[0] / width, FIELD_MM[1] / height) * room.choice([1.0, 0.985, 0.97]))
    chest = anatomy.chest(who, float(np.clip(spacing, *GRID_MM)))
    picture = beam.Picture(width, height, spacing, chest.build.grid_mm)
    weakened = picture.enlarged(beam.attenuation(chest), cv2.INTER_CUBIC)
    disease.look_alikes(picture, weakened, chest, extras)
    return picture, chest, weakened, (room, *others)


def refuse_size(width: int, height: int) -> None:
    """ValueError, in one line, for a picture that is too small or too long to show a chest."""
    if min(width, height) < SMALLEST_SIDE or max(width, height) > WIDEST_SHAPE * min(width, height):
        right = f"sides of {SMALLEST_SIDE} or more, none over {WIDEST_SHAPE} times the other, are right"
        raise ValueError(f"{width} x {height} pixels: {right}")
