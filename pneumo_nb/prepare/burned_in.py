"""Text burned into the pixels: where a radiograph seems to show some, beyond the letter that marks its side.

Characters are small strokes of even brightness with sharp edges, of one height, side by side on one line that runs
across, up or down. Three of them are suspected to be text; a lone L or R is not. A person has to look at what is found.
"""

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from pneumo_nb.prepare import images

LONGEST_SIDE = 1280  # pixels: larger pictures are looked at in about this size, for large text in a half and a quarter
STROKE = 13  # pixels: a character's strokes are thinner, the anatomy around them is not
# Grey levels from a stroke to its surroundings: low for faint text, high to part characters that touch. In the half and
# the quarter the lowest is left out, for there opacities are as small and sharp as characters.
LEVELS = (18, 36, 70, 130)
HEIGHTS = (6, 40)  # pixels of a character
CELL, DENSE = 16, 0.05  # pixels of a side, and the share of strokes from which on a cell is looked at
FEWEST, FEWEST_FAINT = 3, 5  # characters of a line; small opacities are faint and seldom five in line
MOST = 3000  # candidates that are compared with each other

Box = tuple[int, int, int, int]


def find(picture: np.ndarray) -> list[Box]:
    """Boxes (left, top, right, bottom), in pixels of `picture`, of what seems to be text; from top to bottom.

    `picture` is (height, width) of uint8 or uint16, as it was read. One that is nearly flat is looked at as it is and
    with its greys spread: text is as bright as the radiograph, not as the scale.
    """
    counts = images.histogram(images.few_rows(picture))
    grey, flat = images.spread(np.linspace(0, 1, len(counts)), counts)
    shades = [picture if picture.dtype == np.uint8 else (picture >> 8).astype(np.uint8)]
    shades += [images.look_up(images.levels(grey, 8), picture)] if flat else []
    boxes = []
    for shade in shades:
        scale = max(1, round(max(picture.shape) / LONGEST_SIDE))
        shown = _shrunk(shade, scale)
        for levels in (LEVELS, LEVELS[1:], LEVELS[1:]):
            if min(shown.shape) < 2 * HEIGHTS[0]:
                break
            boxes += [tuple(side * scale for side in box) for box in _at_one_size(shown, levels)]
            shown, scale = _shrunk(shown, 2), 2 * scale
    return _merged(boxes)


def _shrunk(grey: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor pixels; a whole factor costs a tenth of any other."""
    rows, columns = (side // factor for side in grey.shape)
    if factor == 1 or not rows or not columns:
        return grey[:rows, :columns]
    return cv2.resize(grey[: rows * factor, : columns * factor], (columns, rows), interpolation=cv2.INTER_AREA)


def _at_one_size(grey: np.ndarray, levels: tuple[int, ...]) -> list[Box]:
    edge = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    boxes = []
    for shade in (grey, 255 - grey):  # white text and black
        hat = cv2.morphologyEx(shade, cv2.MORPH_TOPHAT, np.ones((STROKE, STROKE), np.uint8))
        for across, down, width, height in _zones(cv2.min(hat, edge), levels[0]):
            parts = [part[down : down + height, across : across + width] for part in (shade, hat, edge)]
            turned = [np.ascontiguousarray(part.T) for part in parts]  # text that runs up or down
            lines = [box for level in levels for box in _lines(*parts, level)]
            lines += [(y, x, bottom, right) for level in levels for x, y, right, bottom in _lines(*turned, level)]
            boxes += [(x + across, y + down, right + across, bottom + down) for x, y, right, bottom in lines]
    return boxes


def _zones(sharp: np.ndarray, level: int) -> list[list[int]]:
    """Where thin strokes with sharp edges stand densely (left, top, width, height): little of a radiograph."""
    _, strokes = cv2.threshold(sharp, level, 255, cv2.THRESH_BINARY)
    share = _shrunk(np.pad(strokes, [(0, -side % CELL) for side in sharp.shape]), CELL)
    dense = cv2.dilate((share > 255 * DENSE).astype(np.uint8), np.ones((3, 3), np.uint8))
    stats = cv2.connectedComponentsWithStats(dense, connectivity=8)[2]
    return (stats[1:, :4] * CELL).tolist()


def crop(picture: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """The boxes with a margin, one below the other, for a person to look at; of the type of `picture`."""
    parts = []
    for left, top, right, bottom in boxes:
        margin = bottom - top
        parts.append(picture[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin])
    widest = max(part.shape[1] for part in parts)
    return np.vstack([np.pad(part, ((0, 4), (0, widest - part.shape[1]))) for part in parts])


def _merged(boxes: list[Box]) -> list[Box]:
    """Boxes that overlap, as one, sorted from top to bottom."""
    done: list[Box] = []
    for box in boxes:
        while touching := [b for b in done if b[0] <= box[2] and b[2] >= box[0] and b[1] <= box[3] and b[3] >= box[1]]:
            box = _around(np.array([box, *touching]))
            done = [b for b in done if b not in touching]
        done.append(box)
    return sorted(done, key=lambda box: (box[1], box[0]))


def _lines(grey: np.ndarray, hat: np.ndarray, edge: np.ndarray, level: int) -> list[Box]:
    """Boxes of lines of characters that are at least `level` brighter than what lies around them."""
    boxes, shade = _characters(grey, hat, edge, level)
    fewest = FEWEST if level > LEVELS[0] else FEWEST_FAINT
    if len(boxes) < fewest:
        return []
    count, chains = connected_components(_side_by_side(boxes, shade), directed=False)
    lines = [line for line in (boxes[chains == chain] for chain in range(count)) if len(line) >= fewest]
    return [_around(line) for line in lines if _on_one_line(line)]


def _around(boxes: np.ndarray) -> Box:
    return (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())


def _characters(grey: np.ndarray, hat: np.ndarray, edge: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """What could be characters: (n, 4) of left, top, right, bottom, and (n,) of mean grey levels."""
    mask = (hat > level).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    left, top, width, height, area = stats.astype(np.int64).T
    place = np.flatnonzero(mask)
    which, shades = labels.ravel()[place], grey.ravel()[place].astype(np.float64)
    mean = np.bincount(which, shades, count) / area
    spread = np.sqrt(np.maximum(np.bincount(which, shades**2, count) / area - mean**2, 0))
    sharp = np.bincount(which, edge.ravel()[place], count) / area
    contrast = np.zeros(count)
    np.maximum.at(contrast, which, hat.ravel()[place])
    alike = (height >= HEIGHTS[0]) & (height <= HEIGHTS[1]) & (width <= 2.5 * height) & (area >= 0.2 * width * height)
    alike &= (area >= 8) & (spread <= 0.4 * contrast) & (sharp >= np.maximum(12, 0.5 * contrast))
    alike[0] = False  # the background
    chosen = np.flatnonzero(alike)
    chosen = np.sort(chosen[np.argsort(-sharp[chosen], kind="stable")[:MOST]])
    return np.stack([left, top, left + width, top + height], axis=1)[chosen], mean[chosen]


def _side_by_side(boxes: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """(n, n) of bool: which characters could be neighbours in one word."""
    left, top, right, bottom = boxes.T
    height = bottom - top
    low, high = np.minimum.outer(height, height), np.maximum.outer(height, height)
    shared = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    gap = np.maximum.outer(left, left) - np.minimum.outer(right, right)
    near = (low >= 0.55 * high) & (shared >= 0.6 * low) & (gap <= 1.3 * high) & (gap >= -0.2 * high)
    return near & (np.abs(np.subtract.outer(shade, shade)) < 40)


def _on_one_line(boxes: np.ndarray) -> bool:
    """Whether most of the characters stand on (or hang from) one nearly level line and are alike in height."""
    height = (boxes[:, 3] - boxes[:, 1]).astype(float)
    typical, middle = np.median(height), (boxes[:, 0] + boxes[:, 2]) / 2
    if np.ptp(middle) < 1.2 * typical or np.mean(np.abs(height - typical) <= 0.35 * typical) < 0.7:
        return False
    for side in (3, 1):
        slope, start = np.polyfit(middle, boxes[:, side], 1)
        off = np.abs(boxes[:, side] - (slope * middle + start))
        if abs(slope) < 0.2 and np.mean(off <= max(1.0, 0.12 * typical)) >= 0.7:
            return True
    return False
