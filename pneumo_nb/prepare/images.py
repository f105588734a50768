"""Pixels -> grey levels: JPG and PNG files, read with nothing else and written without metadata; the greys of DICOM."""

import math
import os
import re
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pneumo_nb import settings

HEADLESS = re.compile(rb"[\x02\x08]\0.\0([A-Z]{2}|..\0\0)", re.DOTALL)  # DICOM without preamble: group 2 or 8 at once
PNG, END_OF_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
KINDS = rb"(?P<dicom>.{128}DICM|%b)|(?P<jpg>\xff\xd8\xff)|(?P<png>%b)" % (HEADLESS.pattern, PNG)  # by the first bytes
JPG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # not stuffing, not a restart
END_OF_JPG, START_OF_JPG = 0xD9, 0xD8
FRAME_HEADERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SMALLEST_SIDE = 64  # pixels: nothing smaller can be read as a radiograph
LARGEST_PICTURE = 40_000_000  # pixels: twice a 43 x 43 cm detector at 0.1 mm
WIDE = 4  # times the values: a window that is wider was not made for them
CLIPPED = 0.9  # share of the pixels: a window that makes more of them black or white was not made for them
FEW = 0.25  # share of the grey scale: what the bulk of a radiograph fills no more of is close to flat


class Rejected(ValueError):
    """Why a file does not become an image: one line, without any free text from the file."""


refuse = partial(settings.refuse, kind=Rejected)


def load(path: Path) -> tuple[str, bytes]:
    """'dicom', 'jpg' or 'png' by the first bytes of a regular file, opened once, and all its bytes; else Rejected."""
    try:
        refuse(not stat.S_ISREG(path.lstat().st_mode), "it is a link or not a regular file")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # as it is by now
            start = file.read(132)
            kind = re.match(KINDS, start, re.DOTALL)
            refuse(not kind, "it is not a DICOM, JPG or PNG file" if start else "it is empty")
            return kind.lastgroup, start + file.read()
    except OSError as error:
        raise Rejected(f"it cannot be read ({type(error).__name__})") from None


def refuse_size(width: int, height: int, what: str = "its size") -> None:
    """Raise Rejected for a picture too small to be a radiograph, or so large that decoding it is a danger."""
    what += f" is {width} x {height} pixels"
    refuse(min(width, height) < SMALLEST_SIDE, f"{what}: a side must have at least {SMALLEST_SIDE}")
    refuse(width * height > LARGEST_PICTURE, f"{what}, more than {LARGEST_PICTURE:,}")


def read(content: bytes, bits: int = 8) -> tuple[np.ndarray, dict]:
    """A grey JPG or PNG -> (height, width) of uint8 or (`bits` 16) uint16, and facts named as those of `dicom.read`.

    Equal channels and an opaque alpha are grey, white is dense; metadata (EXIF) and what follows the image are ignored.
    Rejected for a file that is cut short, in colour, transparent or of a wrong size.
    """
    refuse_size(*_extent(content)[:2])
    picture = decode(content)
    if picture.ndim == 3 and (picture[..., 3:] < np.iinfo(picture.dtype).max).any():
        raise Rejected("its alpha channel is not opaque everywhere: save it without alpha")
    picture = one_channel(picture)
    counts = histogram(picture)
    refuse(np.count_nonzero(counts) == 1, "all its pixels have one grey value")
    low, high, known = used_range(counts) if picture.dtype == np.uint16 else (0, 255, "declared")
    grey, flat = spread((np.arange(len(counts)) - low) / (high - low), counts)
    facts = dict.fromkeys(("photometric", "view", "body_part", "faulty", "contradiction"), "")
    facts |= {"bits": 8 * picture.itemsize, "width": picture.shape[1], "height": picture.shape[0], "spacing_mm": None}
    facts |= {"grey_range": "unknown" if flat else known, "identifiers": {}}
    return look_up(levels(grey, bits), picture), facts


def one_channel(picture: np.ndarray, what: str = "it") -> np.ndarray:
    """(height, width) of a picture that has one channel, or several with equal colours; Rejected for any other."""
    if picture.ndim == 2:
        return picture
    if (picture[..., :1] != picture[..., 1:3]).any():
        raise Rejected(f"{what} is a colour picture (its channels differ): save it in grey")
    return np.ascontiguousarray(picture[..., 0])


def decode(content: bytes) -> np.ndarray:
    """Pixels of a whole JPG or PNG, as many channels and bits as it has; Rejected for one cut short or broken."""
    with suppress(cv2.error, MemoryError):
        picture = cv2.imdecode(np.frombuffer(content, np.uint8, _extent(content)[2]), cv2.IMREAD_UNCHANGED)
        if picture is not None:
            return picture
    raise Rejected("its pixels cannot be decoded")


def encode(picture: np.ndarray, form: str, quality: int = 95) -> bytes:
    """The bytes of a JPG or PNG file without metadata. The caller writes them: cv2.imwrite is silent on a full disk."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, content = cv2.imencode(f".{form}", picture, options)  # a JPG has at most 65,500 pixels a side
    settings.refuse(not done, f"a {picture.shape[1]} x {picture.shape[0]} picture cannot be encoded as {form}")
    return content.tobytes()


def tile(path: Path, side: int) -> np.ndarray:
    """A prepared image shrunk to (side, side) of uint8, to be seen among many."""
    small = cv2.resize(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), (side, side), interpolation=cv2.INTER_AREA)
    return small if small.dtype == np.uint8 else (small // 257).astype(np.uint8)


def unusual(tiles: np.ndarray) -> np.ndarray:
    """How unlike the others each of the (images, side, side) tiles looks: (images,), about 1 for an ordinary one.

    At 16 x 16 places, how far the grey is from the median of all tiles, in units of how far it typically is (and one
    grey level, so that places that never change do not decide); then the mean over the places.
    """
    grey = np.stack([cv2.resize(one, (16, 16), interpolation=cv2.INTER_AREA) for one in tiles]).astype(np.float32)
    distance = np.abs(grey - np.median(grey, axis=0))
    return (distance / (np.median(distance, axis=0) + 1)).mean(axis=(1, 2))


def _extent(content: bytes) -> tuple[int, int, int]:
    """Width and height as a JPG or PNG says, and where it ends, whatever follows; Rejected if it ends too early."""
    width = height = marker = 0
    if content.startswith(PNG) and END_OF_PNG in content:  # whether it is this one's, check sums tell in decoding
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"), len(content)
    place = len(content) if content.startswith(PNG) else 2
    while marker != START_OF_JPG and (found := JPG_MARKER.search(content, place)):
        marker, place = found[1][0], found.end()
        if marker == END_OF_JPG:
            return width, height, place
        if marker in FRAME_HEADERS:
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (3, 5))
        place += int.from_bytes(content[place : place + 2], "big")
    raise Rejected("it ends before the end of the image")


def histogram(picture: np.ndarray) -> np.ndarray:
    """How many pixels of a (height, width) of uint8 or uint16 have each value: (256,) or (65536,)."""
    values = 2 ** (8 * picture.itemsize)
    return cv2.calcHist([picture], [0], None, [values], [0, values]).ravel().astype(np.int64)


def few_rows(picture: np.ndarray) -> np.ndarray:
    """About a million pixels of a (height, width), as every n-th row."""
    return picture[:: max(1, picture.size >> 20)]


def used_range(counts: np.ndarray, least: int = 0) -> tuple[int, int, str]:
    """Lowest and highest value of the range that a picture uses, and whether that range is 'declared' or 'used'.

    `counts` (values,) are the pixels of each value from `least` on, of all that are declared. If a range of fewer
    whole bits, such as 12 bits of 16, holds all that occur, it is taken.
    """
    low, high = (int(value) + least for value in np.flatnonzero(counts)[[0, -1]])
    half = 2 ** max(1, max(high, ~low).bit_length())
    whole = (-half, half - 1) if low < 0 else (0, half - 1)
    if 2 * (whole[1] - whole[0] + 1) <= len(counts):
        return *whole, "used"
    return least, least + len(counts) - 1, "declared"


def spread(grey: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Greys (values,) that leave no radiograph flat, and whether the radiograph would be flat without, or is.

    `grey` rises or falls from 0 to 1 over the values; `counts` are the pixels of each. If the bulk of the pixels, 99 %
    of them without the least and the greatest value (padding, borders, dead pixels), fills no more than FEW of the
    scale, it is spread over it, with half as much room on both sides; unless a window has cut it off.
    """
    used = np.flatnonzero(counts)
    inner = used[1:-1] if len(used) > 2 else used
    share = counts[inner].cumsum() / counts[inner].sum()
    first, last = (int(inner[np.searchsorted(share, part)]) for part in (0.005, 0.995))
    start, middle, end = (grey[value] for value in (first, (first + last) // 2, last))
    if abs(end - start) > FEW:
        return grey, counts[(grey <= 0) | (grey >= 1)].sum() > CLIPPED * counts.sum()
    if 0.05 * abs(end - start) < abs(middle - start) < 0.95 * abs(end - start):
        room = (last - first) // 2
        ends = grey[[max(first - room, used[0]), min(last + room, used[-1])]]
        grey = (grey - ends.min()) / np.ptp(ends)
    return grey, True


def rendered(header: Any, counts: np.ndarray, least: int, voi: bool) -> tuple[np.ndarray, str, str]:
    """Grey from 0 to 1 of each value of a DICOM file, by what rendering, and by what range of values.

    `header` is that of dicom.read; `counts` (values,) are the pixels of each value from `least` on. The range is
    'declared'; 'used', if less is used than the header allows; 'unknown', if that leaves the radiograph nearly flat.
    """
    padding = header.first("PixelPaddingValue")
    if padding is not None:  # it is rendered, but says nothing of the range
        others = np.where(np.arange(len(counts)) == int(padding - least) % len(counts), 0, counts)
        counts = others if others.any() else counts
    values = _modality_values(header, counts, least)
    table = _through_lut(header, "VOILUTSequence", values[0]) if voi else None
    x, low, high, known = table or values
    grey, rendering = (x - low) / (high - low), "VOI LUT" if table else "range"
    centre, width = header.first("WindowCenter"), header.first("WindowWidth", 0.0)
    function = header.text("VOILUTFunction") or "LINEAR"
    if voi and not table and centre is not None and (width >= 1 or (width > 0 and function != "LINEAR")):
        least_used, most_used = x[counts > 0].min(), x[counts > 0].max()
        around = centre - width / 2 <= least_used and most_used <= centre + width / 2
        if around and WIDE * (most_used - least_used) <= width:
            known = "used"
        else:
            grey, rendering, known = window(x, centre, width, function), "window", "declared"
    grey, flat = spread(grey, counts)
    return grey, rendering, "unknown" if flat else known


def _modality_values(header: Any, counts: np.ndarray, least: int) -> tuple[np.ndarray, float, float, str]:
    """Values after the modality LUT or rescale, the least and greatest there can be, and by what range."""
    stored = np.arange(least, least + len(counts))
    if table := _through_lut(header, "ModalityLUTSequence", stored):
        return table
    slope, intercept = header.first("RescaleSlope", 1.0), header.first("RescaleIntercept", 0.0)
    low, high, known = used_range(counts, least)
    if not slope or not math.isfinite(slope * 65536 + intercept):
        header.faulty.add("RescaleSlope")
        slope, intercept = 1.0, 0.0
    return stored * slope + intercept, *sorted((low * slope + intercept, high * slope + intercept)), known


def _through_lut(header: Any, keyword: str, x: np.ndarray) -> tuple[np.ndarray, int, int, str] | None:
    """PS3.3 C.11.1.1.1: entries for values, the least and greatest there can be, and if those are 'declared' or 'used'.

    None without a table, or with a faulty one. (pydicom's own functions wrap around at 256 entries of 8 bits.)
    """
    items = header.value(keyword)
    if not items:
        return None
    with suppress(Exception):
        item = items[0]
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count % 65536 or 65536
        first -= 65536 if first > 32767 and x.min() < 0 else 0  # the sign is lost where the VR says unsigned
        data = item.LUTData
        if isinstance(data, bytes):  # of words, or packed bytes
            words = ("<" if header.elements.file_meta.TransferSyntaxUID.is_little_endian else ">") + "u2"
            data = np.frombuffer(data, words if len(data) >= 2 * count else np.uint8)
        entries = np.asarray(data, np.float64)[:count]
        white = 2 ** max(1, int(entries.max()).bit_length()) - 1
        known = "declared" if white == 2**bits - 1 else "used"
        return entries[np.clip(np.rint(x).astype(np.int64) - first, 0, len(entries) - 1)], 0, white, known
    header.faulty.add(keyword)
    return None


def window(x: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1: values to grey between 0 and 1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((x - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (x > centre - 0.5).astype(np.float64)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def levels(grey: np.ndarray, bits: int, inverse: bool = False) -> np.ndarray:
    """Greys between 0 and 1 -> the nearest levels of uint8 or (`bits` 16) uint16, inverted as levels: exactly so."""
    white = 2**bits - 1
    nearest = np.floor(np.clip(grey, 0, 1) * white + 0.5).astype(np.uint8 if bits == 8 else np.uint16)
    return white - nearest if inverse else nearest


def look_up(table: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The level of each value by its lowest bits, as many as `table` is long for; those above repeat the table."""
    return cv2.LUT(picture, np.resize(table, 256 if picture.dtype == np.uint8 else 65536))
