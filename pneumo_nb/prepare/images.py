"""JPG and PNG files: read as grey pixels with nothing else, and written without metadata."""

import os
import stat
from pathlib import Path

import cv2
import numpy as np

from pneumo_nb.prepare.dicom import Rejected, refuse_size

JPG, PNG, DICOM = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"DICM"
LARGEST_FILE = 400_000_000  # bytes: ten bytes for each pixel of the largest picture


def load(path: Path) -> tuple[str, bytes]:
    """'dicom', 'jpg' or 'png' by the first bytes of a regular file, whatever its name, and all its bytes.

    Rejected for all else. A file is opened once, so that it cannot be exchanged between looking and reading.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Rejected("it is a link or not a regular file")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # of what it has become meanwhile
        with os.fdopen(handle, "rb") as file:
            kind = _kind(file.read(132))
            size = os.fstat(handle).st_size
            if size > LARGEST_FILE:
                raise Rejected(f"it is larger than {LARGEST_FILE:,} bytes")
            file.seek(0)
            return kind, file.read(size)
    except OSError as error:
        raise Rejected(f"it cannot be read ({type(error).__name__})") from None


def _kind(start: bytes) -> str:
    for name, found in (("dicom", start[128:] == DICOM), ("jpg", start[:3] == JPG), ("png", start[:8] == PNG)):
        if found:
            return name
    raise Rejected("it is not a DICOM, JPG or PNG file" if start else "it is empty")


def read(content: bytes, bits: int = 8) -> tuple[np.ndarray, dict]:
    """A grey JPG or PNG -> (height, width) of uint8 or (`bits` 16) uint16, and facts named as those of `dicom.read`.

    Colour is accepted only if all three channels are equal. White is taken to be dense; an EXIF orientation is ignored,
    as are all other metadata. Raises Rejected for a file that is cut short, in colour, transparent or of a wrong size.
    """
    refuse_size(*_size(content))
    picture = decode(content)
    if picture.ndim == 3:
        if picture.shape[2] != 3:
            raise Rejected("it has an alpha channel")
        if (picture[..., :1] != picture[..., 1:]).any():
            raise Rejected("it is a colour picture: its channels differ")
        picture = np.ascontiguousarray(picture[..., 0])
    if picture.dtype not in (np.uint8, np.uint16):
        raise Rejected(f"its pixels are {picture.dtype}, not 8 or 16 bits")
    if picture.min() == picture.max():
        raise Rejected("all its pixels have one grey value")
    height, width = picture.shape
    facts = {"photometric": "", "bits": 8 * picture.itemsize, "width": width, "height": height, "spacing_mm": None}
    facts |= {"view": "", "body_part": "", "modality": "", "transfer_syntax": "", "rendering": ""}
    return _to_bits(picture, bits), facts


def decode(content: bytes) -> np.ndarray:
    """Pixels of a whole JPG or PNG, as many channels and bits as it has; Rejected for one cut short or broken."""
    whole = content.rstrip(b"\0\r\n ").endswith(b"\xff\xd9") if content[:3] == JPG else b"IEND" in content[-12:]
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    except (cv2.error, MemoryError):
        picture = None
    if picture is None:
        raise Rejected("its pixels cannot be decoded" if whole else "it ends before the end of the image")
    return picture


def encode(picture: np.ndarray, form: str, quality: int = 95) -> bytes:
    """The bytes of a JPG or PNG file without metadata. The caller writes them: cv2.imwrite is silent on a full disk."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, content = cv2.imencode(f".{form}", picture, options)
    if not done:
        raise ValueError(f"a {picture.shape[1]} x {picture.shape[0]} picture cannot be encoded as {form}")
    return content.tobytes()


def tile(path: Path, side: int) -> np.ndarray:
    """A prepared image shrunk to (side, side) of uint8, to be seen among many."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return _to_bits(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), 8)


def unusual(tiles: np.ndarray) -> np.ndarray:
    """How unlike the others each of the (images, side, side) tiles looks: (images,), about 1 for an ordinary one.

    At 16 x 16 places, how far the grey is from the median of all tiles, in units of how far it typically is; then the
    mean over the places. One grey level is added to the unit, so that places that never change do not decide.
    """
    grey = np.stack([cv2.resize(one, (16, 16), interpolation=cv2.INTER_AREA) for one in tiles]).astype(np.float32)
    distance = np.abs(grey - np.median(grey, axis=0))
    return (distance / (np.median(distance, axis=0) + 1)).mean(axis=(1, 2))


def _to_bits(picture: np.ndarray, bits: int) -> np.ndarray:
    have = 8 * picture.itemsize
    if have == bits:
        return picture
    return (picture // 257).astype(np.uint8) if bits == 8 else picture.astype(np.uint16) * 257


def _size(content: bytes) -> tuple[int, int]:
    """Width and height as the file says, found before anything is decoded."""
    if content[:8] == PNG:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = content[place + 5 : place + 7], content[place + 7 : place + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    raise Rejected("it has no frame header")
