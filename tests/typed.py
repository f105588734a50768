"""Invented text written into the pixels of a radiograph, as a workstation or a digitiser burns it in."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
TEXTS = ("MOCKFORD^VERA", "Sampleton, Hypo", "DOB 12.03.1951", "1998-07-21 08:45", "PX-480213", "ACC 00917734", "Pit 7")
SHADES = {"white": 255, "light grey": 190, "black": 0, "white on a black plate": 255, "black on a white plate": 0}
PLACES = ((0.03, 0.03), (0.6, 0.03), (0.03, 0.92), (0.6, 0.92), (0.35, 0.5))  # shares of width and height


@dataclass(frozen=True)
class Typed:
    """A text, its font, its height as a share of the picture's, its shade, and where it begins."""

    text: str
    font: str
    height: float
    shade: str
    place: tuple[float, float]


def drawn(chance: np.random.Generator, height: float) -> Typed:
    """A text of this height, all else by chance."""
    choose = [options[chance.integers(len(options))] for options in (TEXTS, FONTS, tuple(SHADES), PLACES)]
    return Typed(choose[0], choose[1], height, choose[2], choose[3])


def write(picture: np.ndarray, what: Typed) -> tuple[np.ndarray, tuple[int, int, int, int], float]:
    """The picture with the text, its box (left, top, right, bottom), and its contrast to what lay there before.

    The contrast is the difference of the text's grey level to the median of its box, or to its plate.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rows, columns = picture.shape
    font = ImageFont.truetype(str(folder / f"{what.font}.ttf"), max(6, round(what.height * rows / 0.73)))
    image = Image.fromarray(picture)
    pen, at = ImageDraw.Draw(image), (what.place[0] * columns, what.place[1] * rows)
    box = tuple(round(side) for side in pen.textbbox(at, what.text, font=font))
    grey, behind = SHADES[what.shade], float(np.median(picture[box[1] : box[3], box[0] : box[2]]))
    if "plate" in what.shade:
        behind = 255 - grey
        pen.rectangle((box[0] - 3, box[1] - 3, box[2] + 3, box[3] + 3), fill=behind)
    pen.text(at, what.text, fill=grey, font=font)
    return np.asarray(image), box, abs(grey - behind)


def found(boxes, written) -> bool:
    """Whether one of the boxes covers at least a third of the width of the text."""
    left, top, right, bottom = written
    return any(
        min(right, box[2]) - max(left, box[0]) >= (right - left) / 3 and min(bottom, box[3]) > max(top, box[1])
        for box in boxes
    )
