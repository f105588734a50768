"""One DICOM file -> a grey radiograph and a few harmless facts, or one line saying why not.

Nothing leaves this file but pixels, numbers, and words from closed lists: what is not named here is not copied, so a
header, however odd, has no way out. Errors and warnings of the libraries below may quote a header; they end here too.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CUT_DELIMITER = re.compile(rb"\xfe\xff\xdd\xe0\0{0,3}\Z")  # of the encoded pixels, with less than its four zeros
SMALLEST_SIDE = 64  # pixels: nothing smaller can be read as a radiograph
LARGEST_PICTURE = 40_000_000  # pixels: twice a 43 x 43 cm detector at 0.1 mm

MODALITIES = ("CR", "DX")
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: how converted radiographs are often stored
}
PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2")
FRONTAL_VIEWS = ("PA", "AP")
CHEST = ("CHEST", "THORAX")


def _words(text: str) -> set[str]:
    return set(re.findall("[A-Z]+", text))


# Closed lists: the only values of a header that a reason may repeat.
OTHER_MODALITIES = _words(
    "AR AU BI CT DG DOC ECG EPS ES FID GM HC IO IVOCT IVUS KO LS MG MR NM OCT OP OPT OT PR PT PX REG RF RG RTDOSE "
    "RTIMAGE RTPLAN RTRECORD RTSTRUCT SC SEG SM SR TG US VL XA XC"
)
OTHER_PHOTOMETRICS = {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
OTHER_VIEWS = _words("L LL RL LATERAL LAT LLD RLD LLO RLO LAO RAO LPO RPO")
OTHER_BODY_PARTS = _words(
    "ABDOMEN ANKLE ARM BREAST CALCANEUS CERVICAL CLAVICLE COCCYX CSPINE DENTAL ELBOW EXTREMITY FEMUR FINGER FOOT "
    "FOREARM HAND HEAD HIP HUMERUS JAW KNEE KUB LEG LSPINE MANDIBLE MAXILLA NECK PATELLA PELVIS RIB RIBCAGE RIBS "
    "SACRUM SCAPULA SHOULDER SKULL SPINE SSPINE STERNUM TEETH THIGH THUMB TIBIA TOE TSPINE WRIST"
)
ANIMALS = _words("AVIAN BOVINE CANINE EQUINE FELINE OVINE PORCINE VETERINARY")
HUMAN = {"", "HUMAN", "HOMO SAPIENS"}
DESCRIPTIONS = ("SeriesDescription", "StudyDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")


class Rejected(ValueError):
    """Why a file does not become an image: one line, without any free text from the file."""


def read(source: str | Path | bytes, voi: bool = True, bits: int = 8) -> tuple[np.ndarray, dict]:
    """Render one single-frame frontal chest radiograph as it is meant to be seen: lungs dark, bones white.

    `source` is a path, or all bytes of a file.
    Returns the picture, (height, width) of uint8 or (`bits` 16) uint16, and a dict of facts: photometric, bits
    (stored), width, height, spacing_mm (or None), view (PA, AP or ''), body_part (CHEST, THORAX or 'guessed'),
    modality, transfer_syntax, rendering (VOI LUT, window or range). Raises Rejected for every other file.
    The way of the pixels is PS3.3 C.11 and PS3.4 N.2: modality LUT, then VOI LUT or window (unless `voi` is false),
    then inversion by the presentation shape or, without one, for MONOCHROME1. Padding (PixelPaddingValue) is rendered
    as any other value, as dcmtk does: the standard leaves its look open, and undeclared borders are no different.
    """
    with _guarded("not readable as DICOM"):
        from pydicom import dcmread

        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        header = dcmread(BytesIO(content))
        if not header or CUT_DELIMITER.search(content, len(content) - 7):  # pydicom minds neither
            raise Rejected("it is cut short, or holds no elements")
    with _guarded("its header breaks the DICOM standard"):
        _refuse_other_objects(header)
        facts = _facts(header)
    with _guarded(f"its pixels cannot be decoded: transfer syntax {facts['transfer_syntax']}"):
        _refuse_undecodable(header, facts)
        stored = _stored_patterns(header)
    with _guarded("its grey values cannot be rendered"):
        grey, facts["rendering"] = _grey_of_patterns(header, voi)
        picture = _look_up(_to_integers(grey, _is_inverse(header), bits), stored)
    if picture.min() == picture.max():
        raise Rejected("all its pixels have one grey value")
    return picture, facts


def identifiers(content: bytes) -> tuple[str, str]:
    """PatientID and SOPInstanceUID of a file's bytes, or '': for making pseudonyms and for nothing else."""
    with _guarded("not readable as DICOM"):
        from pydicom import dcmread

        tags = ["PatientID", "SOPInstanceUID"]
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=tags)
        return tuple(str(header.get(tag) or "").strip() for tag in tags)


def acquired(content: bytes) -> date | None:
    """When the radiograph of a file's bytes was taken, or None: an identifier, for `pseudonyms.shifted` and no more."""
    with _guarded("not readable as DICOM"):
        from pydicom import dcmread

        tags = ["AcquisitionDate", "StudyDate"]
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=tags)
        for text in (_text(header, tag) for tag in tags):
            if re.fullmatch("(189[5-9]|19..|20..)....", text):
                with suppress(ValueError):
                    return datetime.strptime(text, "%Y%m%d").date()
        return None


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into Rejected(`what`) and the kind of error; keep the libraries' words from getting out.

    BaseException, because decoders written in Rust panic past Exception.
    """
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Rejected, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise Rejected(f"{what} ({type(error).__name__})") from None
    finally:
        logging.disable(before)


def _refuse_other_objects(header: Any) -> None:
    """Raise Rejected unless the header describes one frontal radiograph of a human chest."""
    _refuse_kind(header)
    _refuse_subject(header)
    if _text(header, "BurnedInAnnotation") == "YES":
        raise Rejected("BurnedInAnnotation is YES: its pixels hold text that may identify the patient")
    if "PixelData" not in header:
        raise Rejected("it has no PixelData")
    stored, allocated = int(header.BitsStored), int(header.BitsAllocated)
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise Rejected(f"BitsStored {stored} of BitsAllocated {allocated}: 2 to 16 of 8 or 16 are read")
    refuse_size(int(header.Columns), int(header.Rows))


def _refuse_kind(header: Any) -> None:
    from pydicom.uid import UID_dictionary

    modality, sop = _text(header, "Modality"), str(header.get("SOPClassUID") or "")
    if modality not in MODALITIES:
        raise Rejected(f"Modality is {_shown(modality, OTHER_MODALITIES)}, not CR or DX")
    if sop not in SOP_CLASSES:
        name = UID_dictionary[sop][0] if sop in UID_dictionary else "not a known one"
        raise Rejected(f"SOP class is {name}, not Computed Radiography, Digital X-Ray or Secondary Capture")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        raise Rejected(f"it has {frames if 0 <= frames < 100_000 else 'very many'} frames, not one")
    photometric, samples = _text(header, "PhotometricInterpretation"), int(header.get("SamplesPerPixel") or 1)
    if photometric not in PHOTOMETRICS:
        raise Rejected(f"PhotometricInterpretation is {_shown(photometric, OTHER_PHOTOMETRICS)}, not MONOCHROME1 or 2")
    if samples != 1:
        raise Rejected(f"SamplesPerPixel is {samples}, not 1")


def _refuse_subject(header: Any) -> None:
    words = _words(" ".join(_text(header, keyword) for keyword in DESCRIPTIONS))
    species, breed = _text(header, "PatientSpeciesDescription"), _text(header, "PatientBreedDescription")
    if species not in HUMAN or breed or words & ANIMALS:
        raise Rejected("the patient is an animal by species, breed or description")
    part = _text(header, "BodyPartExamined")
    if part and part not in CHEST:
        raise Rejected(f"BodyPartExamined is {_shown(part, OTHER_BODY_PARTS)}, not CHEST or THORAX")
    others = sorted(words & OTHER_BODY_PARTS)
    if not part and others and not words & set(CHEST):
        raise Rejected(f"BodyPartExamined is empty and a description names {others[0]}")
    view = _text(header, "ViewPosition")
    if view in OTHER_VIEWS:
        raise Rejected(f"ViewPosition is {view}, not PA or AP")
    # The rows run to the left or right in a frontal view, to A or P in a lateral. A study description may name both.
    runs_to = str((header.get("PatientOrientation") or [""])[0])[:1].upper()
    described = words - _words(_text(header, "StudyDescription"))
    if view not in FRONTAL_VIEWS and (described & {"LAT", "LATERAL"} or runs_to in ("A", "P")):
        raise Rejected("it is a lateral view by its description or PatientOrientation")


def refuse_size(width: int, height: int) -> None:
    """Raise Rejected for a picture too small to be a radiograph, or so large that decoding it is a danger."""
    if min(width, height) < SMALLEST_SIDE:
        raise Rejected(f"{width} x {height} pixels: a side must have at least {SMALLEST_SIDE}")
    if width * height > LARGEST_PICTURE:
        raise Rejected(f"{width} x {height} pixels are more than {LARGEST_PICTURE:,}")


def _facts(header: Any) -> dict:
    view, part = _text(header, "ViewPosition"), _text(header, "BodyPartExamined")
    return {
        "photometric": _text(header, "PhotometricInterpretation"),
        "bits": int(header.BitsStored),
        "width": int(header.Columns),
        "height": int(header.Rows),
        "spacing_mm": _spacing(header),
        "view": view if view in FRONTAL_VIEWS else "",
        "body_part": part or "guessed",
        "modality": _text(header, "Modality"),
        "transfer_syntax": _transfer_syntax(header),
    }


def _spacing(header: Any) -> float | None:
    """Millimetres between square pixels at the detector; None if not given, not square or not sensible."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        pair = header.get(keyword)
        if pair and len(pair) == 2:
            down, across = float(pair[0]), float(pair[1])
            if 0.01 < down < 5 and abs(down - across) < 0.01 * down:
                return round(down, 4)
    return None


def _transfer_syntax(header: Any) -> str:
    from pydicom.uid import UID_dictionary

    uid = str(header.file_meta.get("TransferSyntaxUID") or "")
    return UID_dictionary[uid][0] if uid in UID_dictionary else "not a known one"


def _refuse_undecodable(header: Any, facts: dict) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax, name = header.file_meta.TransferSyntaxUID, facts["transfer_syntax"]
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise Rejected(f"its pixels cannot be decoded: there is no decoder for transfer syntax {name}") from None
    if syntax == JPEGExtended12Bit and facts["bits"] > 8:
        raise Rejected(f"no decoder of {name} at 12 bits has a permissive licence: decompress it with DCMTK's dcmdjpeg")


def _stored_patterns(header: Any) -> np.ndarray:
    """Each pixel as an unsigned number, (height, width), whose lowest BitsStored bits are the stored ones."""
    from pydicom.pixels import pixel_array

    pixels = pixel_array(header, correct_unused_bits=False)
    if pixels.shape != (header.Rows, header.Columns):
        raise Rejected("its pixels do not have the size that its header says")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False).view(f"u{pixels.itemsize}")
    bits = int(header.BitsStored)
    unused_below = int(header.get("HighBit", bits - 1)) + 1 - bits
    if unused_below > 0 and not header.file_meta.TransferSyntaxUID.is_encapsulated:
        pixels = pixels >> unused_below
    return pixels


def _grey_of_patterns(header: Any, voi: bool) -> tuple[np.ndarray, str]:
    """Grey between 0 and 1 of every pattern that a pixel can hold (a table is far shorter than a picture), and how."""
    x, low, high = _modality_values(header)
    if voi and header.get("VOILUTSequence"):
        entries, white = _through_lut(header, header.VOILUTSequence[0], x)
        return entries / white, "VOI LUT"
    centre, width = _first_number(header, "WindowCenter"), _first_number(header, "WindowWidth")
    function = _text(header, "VOILUTFunction") or "LINEAR"
    if voi and centre is not None and width is not None and (width >= 1 or (width > 0 and function != "LINEAR")):
        return _window(x, centre, width, function), "window"
    return (x - low) / (high - low), "range"


def _modality_values(header: Any) -> tuple[np.ndarray, float, float]:
    """Values of all patterns after the modality LUT or rescale, and the least and greatest value there can be."""
    bits = int(header.BitsStored)
    stored = np.arange(2**bits, dtype=np.int64)
    if int(header.PixelRepresentation) == 1:
        stored[2 ** (bits - 1) :] -= 2**bits
    if header.get("ModalityLUTSequence"):
        entries, white = _through_lut(header, header.ModalityLUTSequence[0], stored)
        return entries, 0.0, white
    slope, intercept = _first_number(header, "RescaleSlope"), _first_number(header, "RescaleIntercept")
    values = stored * (1.0 if slope is None else slope) + (intercept or 0.0)
    if values[0] == values[-1] or not np.isfinite(values).all():
        raise Rejected("its RescaleSlope or RescaleIntercept is zero or not a finite number")
    return values, values.min(), values.max()


def _through_lut(header: Any, item: Any, x: np.ndarray) -> tuple[np.ndarray, float]:
    """PS3.3 C.11.1.1.1: entries for values, and the largest there can be; below the table its first, above it its last.

    pydicom's own functions index with the type of the entries, so that more than 256 entries of 8 bits wrap around.
    """
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count % 65536 or 65536
    first -= 65536 if first > 32767 and x.min() < 0 else 0  # the sign is lost where the VR says unsigned
    if not 8 <= bits <= 16:
        raise Rejected(f"a look-up table has entries of {bits} bits, not 8 to 16")
    data = item.LUTData
    if isinstance(data, bytes):  # of words, or packed bytes
        words = ("<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">") + "u2"
        data = np.frombuffer(data, words if len(data) >= 2 * count else np.uint8)
    entries = np.asarray(data, np.float64)[:count]
    return entries[np.clip(np.rint(x).astype(np.int64) - first, 0, len(entries) - 1)], 2.0**bits - 1


def _window(x: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1: values to grey between 0 and 1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((x - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (x > centre - 0.5).astype(np.float64)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _is_inverse(header: Any) -> bool:
    shape = _text(header, "PresentationLUTShape")
    return shape == "INVERSE" if shape else _text(header, "PhotometricInterpretation") == "MONOCHROME1"


def _to_integers(grey: np.ndarray, inverse: bool, bits: int) -> np.ndarray:
    """Grey between 0 and 1 -> the nearest grey levels.

    Inverting these, not the fractions, makes a picture and its inverse exactly inverse; taking the nearest makes one
    picture come out the same whether it was stored as MONOCHROME1 or 2.
    """
    white = 2**bits - 1
    levels = np.floor(np.clip(grey, 0, 1) * white + 0.5).astype(np.uint8 if bits == 8 else np.uint16)
    return white - levels if inverse else levels


def _look_up(levels: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """The level of each pattern by its lowest bits, as many as `levels` is long for; those above repeat the table."""
    return cv2.LUT(patterns, np.resize(levels, 256 if patterns.dtype == np.uint8 else 65536))


def _text(header: Any, keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()


def _first_number(header: Any, keyword: str) -> float | None:
    """The first value of the element (several windows: the first is the default view), or None."""
    value = header.get(keyword)
    if value is None or value == "":
        return None
    number = float(value if isinstance(value, str | int | float) else value[0] if hasattr(value, "__len__") else value)
    return number if math.isfinite(number) else None


def _shown(value: str, closed: set[str]) -> str:
    return value if value in closed else "not a known one" if value else "missing"
