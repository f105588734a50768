"""Radiographs with something laid over them, as RGB pictures (height, width, 3) of uint8: pure functions, no plots.

Colours run from dark blue to yellow (cividis, made for readers with any colour vision); outlines are orange.
"""

from collections.abc import Sequence

import cv2
import numpy as np

OUTLINE = (230, 97, 1)
SCALE_MM = 50.0  # length of a scale bar; a chest is about 300 mm wide


def grey(image: np.ndarray, white: int, side: int) -> np.ndarray:
    """One radiograph (height, width) whose white is `white`, as a picture of `side` x `side`."""
    return cv2.cvtColor(_resized(np.rint(image * (255 / white)).astype(np.uint8), side), cv2.COLOR_GRAY2RGB)


def coloured(values: np.ndarray, side: int) -> np.ndarray:
    """A map (height, width) in colours, from its lowest to its highest value; a map of one value is dark blue."""
    levels = np.rint(255 * _strength(values, side)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)


def overlaid(radiograph: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A picture with a map over it, the more opaque the higher its value."""
    opacity = 0.8 * _strength(values, radiograph.shape[0])[..., None]
    return np.rint(radiograph * (1 - opacity) + coloured(values, radiograph.shape[0]) * opacity).astype(np.uint8)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with the border of a mask drawn on it."""
    inside = _resized(mask.astype(np.uint8), picture.shape[0], cv2.INTER_NEAREST)
    borders, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), borders, -1, OUTLINE, max(1, picture.shape[0] // 300))


def marked(picture: np.ndarray, width_mm: float) -> np.ndarray:
    """A picture with the patient's right and left marked, and a scale bar of 50 mm unless its width is NaN.

    A frontal radiograph is hung with the patient's right on the viewer's left; the marks follow that rule.
    """
    picture, side = picture.copy(), picture.shape[0]
    _write(picture, "R", (side // 40, side // 12))
    _write(picture, "L", (side - side // 14, side // 12))
    if np.isfinite(width_mm):
        length, low = round(side * SCALE_MM / width_mm), side - side // 30
        cv2.line(picture, (side // 40, low), (side // 40 + length, low), (255, 255, 255), max(2, side // 120))
        _write(picture, f"{SCALE_MM:g} mm", (side // 40, low - side // 30))
    return picture


def channels(
    radiograph: np.ndarray, maps: Sequence[np.ndarray], width_mm: float, outline: np.ndarray | None = None
) -> list[np.ndarray]:
    """The radiograph beside itself with the outline of a mask; then each map, plain beside overlaid. All marked."""
    side = radiograph.shape[0]
    pairs = [(radiograph, radiograph if outline is None else outlined(radiograph, outline))]
    pairs += [(coloured(each, side), overlaid(radiograph, each)) for each in maps]
    return [np.hstack([marked(plain, width_mm), marked(over, width_mm)]) for plain, over in pairs]


def webp(picture: np.ndarray, quality: int = 40) -> bytes:
    """The picture as a WebP file."""
    return cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _strength(values: np.ndarray, side: int) -> np.ndarray:
    """(side, side), 0 at the lowest value and 1 at the highest, of which the outermost hundredths are not counted."""
    values = np.asarray(values, dtype=np.float32)
    low, high = np.percentile(values, (1, 99))
    return _resized(((values - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(values), side)


def _resized(image: np.ndarray, side: int, growing: int = cv2.INTER_LINEAR) -> np.ndarray:
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < image.shape[0] else growing)


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    """White on a dark rim, so that it can be read on any ground."""
    size = max(picture.shape[0] / 560, 0.33)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)
