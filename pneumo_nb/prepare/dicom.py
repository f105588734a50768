"""One DICOM file -> a grey radiograph and a few harmless facts, or one line saying why not.

Nothing leaves this file but pixels, numbers, and words from closed lists (and, for making pseudonyms, `identifiers`):
what is not named here is not copied, so a header, however odd, has no way out. Errors and warnings of the libraries
below may quote a header; they end here too.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pneumo_nb.prepare import images
from pneumo_nb.prepare.images import Rejected

CUT_DELIMITER = re.compile(rb"\xfe\xff\xdd\xe0\0{0,3}\Z")  # of the encoded pixels, with less than its four zeros
WIDE = 4  # times the values: a window that is wider was not made for them

MODALITIES = ("CR", "DX")
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: how converted radiographs are often stored
}
FRONTAL_VIEWS = ("PA", "AP")


def _words(text: str) -> set[str]:
    return set(re.findall("[A-Z]+", text.upper()))


# Closed lists: the only values of a header that a reason may repeat.
OTHER_MODALITIES = _words(
    "AR AU BI CT DG DOC ECG EPS ES FID GM HC IO IVOCT IVUS KO LS MG MR NM OCT OP OPT OT PR PT PX REG RF RG RTDOSE "
    "RTIMAGE RTPLAN RTRECORD RTSTRUCT SC SEG SM SR TG US VL XA XC"
)
GREY_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1}  # and those whose three channels may turn out to be equal
GREY_SAMPLES |= dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3)
OTHER_PHOTOMETRICS = {"PALETTE COLOR", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "ARGB", "HSV", "CMYK"}
OTHER_VIEWS = _words("L LL RL LATERAL LAT LLD RLD LLO RLO LAO RAO LPO RPO")
NOT_FRONTAL = _words("LATERAL LAT OBLIQUE DECUBITUS AXIAL SAGITTAL")
CHEST = _words("CHEST THORAX")
CODED_CHEST = CHEST | _words("THORACIC LUNG LUNGS")
OTHER_BODY_PARTS = _words(
    "ABDOMEN ANKLE ARM BREAST CALCANEUS CERVICAL CLAVICLE COCCYX CSPINE DENTAL ELBOW EXTREMITY FEMUR FINGER FOOT "
    "FOREARM HAND HEAD HIP HUMERUS JAW KNEE KUB LEG LSPINE MANDIBLE MAXILLA NECK PATELLA PELVIS RIB RIBCAGE RIBS "
    "SACRUM SCAPULA SHOULDER SKULL SPINE SSPINE STERNUM TEETH THIGH THUMB TIBIA TOE TSPINE WRIST"
)
ANIMALS = _words("AVIAN BOVINE CANINE EQUINE FELINE OVINE PORCINE VETERINARY")
HUMAN = {"", "HUMAN", "HOMO SAPIENS"}
DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription")
# PS3.16 groups of codes for views and regions; pydicom has them, but for these older codes of SNOMED.
CODE_GROUPS = ("cid4", "cid4009", "cid4031", "cid4010", "cid4011", "cid244")
OLD_CODES = dict.fromkeys(("51185008", "T-D3000", "67734004"), "thorax") | {"R-10214": "postero-anterior"}
OLD_CODES |= dict.fromkeys(("113345001", "818983003", "T-D4000"), "abdomen")
OLD_CODES |= dict.fromkeys(("12921003", "T-D6000"), "pelvis") | {"R-10202": "frontal"}


class _Header:
    """The elements of a header. One that cannot be read counts as absent, and is listed in `faulty`."""

    def __init__(self, elements: Any) -> None:
        self.elements, self.faulty = elements, set()

    def value(self, keyword: str) -> Any:
        try:
            return self.elements.get(keyword)
        except Exception:
            self.faulty.add(keyword)
            return None

    def text(self, keyword: str) -> str:
        return str(self.value(keyword) or "").strip().upper()

    def numbers(self, keyword: str) -> list[float]:
        """Its finite numbers: none if it is absent, empty or faulty."""
        value = self.value(keyword)
        parts = value.split("\\") if isinstance(value, str) else value if hasattr(value, "__iter__") else [value]
        found = []
        with suppress(ValueError, TypeError, OverflowError):
            found = [float(part) for part in parts if part is not None and str(part).strip()]
            if all(map(math.isfinite, found)):
                return found
        self.faulty.add(keyword)
        return []

    def first(self, keyword: str) -> float | None:
        """Its first number (of several windows, the default view), or None."""
        return next(iter(self.numbers(keyword)), None)

    def whole(self, keyword: str, otherwise: int | None = None) -> int:
        number = self.first(keyword)
        if number is None and otherwise is None:
            raise Rejected(f"{keyword} is {'not a number' if keyword in self.faulty else 'missing'}")
        return otherwise if number is None else int(number)

    def coded(self, keyword: str, modifiers: str = "") -> tuple[str, set[str], set[str]]:
        """What a coded element means by the standard ('' for other codes), its words, and those of its modifiers."""
        item = next(iter(self.value(keyword) or ()), None)
        if item is None:
            return "", set(), set()
        meaning, words = _meaning(item)
        inner = (item.get(modifiers) or self.value(modifiers) or ()) if modifiers else ()
        return meaning, words, set().union(*(_meaning(modifier)[1] for modifier in inner))

    def described(self, closed: set[str], *descriptions: str) -> str:
        """'<element> names <word>' for the first word of a closed list in the descriptions, or ''."""
        found = (
            (keyword, self_words & closed) for keyword in descriptions if (self_words := _words(self.text(keyword)))
        )
        return next((f"{keyword} names {min(words)}" for keyword, words in found if words), "")


def read(
    source: str | Path | bytes, voi: bool = True, bits: int = 8, polarity: str = "shape"
) -> tuple[np.ndarray, dict]:
    """Render one single-frame frontal chest radiograph as it is meant to be seen: lungs dark, bones white.

    `source` is a path, or all bytes of a file.
    Returns the picture, (height, width) of uint8 or (`bits` 16) uint16, and a dict of facts: photometric, bits
    (stored), width, height, spacing_mm (or None), view (PA, AP or ''), body_part (CHEST, THORAX or 'guessed'),
    laterality (L, R, B, U or ''), modality, transfer_syntax, rendering (VOI LUT, window or range), and for a person
    to look at: grey_range ('declared'; 'used', if the header allows more than what is used; 'unknown', if the radiograph
    is nearly flat by its header), faulty (elements that were left out) and contradiction (pairs of elements); beside
    them, for pseudonyms and nothing else, identifiers: patient_id, sop_instance_uid, acquired (a date or None).
    Raises Rejected for every other file.
    The way of the pixels is PS3.3 C.11 and PS3.4 N.2: modality LUT, then VOI LUT or window (unless `voi` is false),
    then inversion by PresentationLUTShape or, without one or with `polarity` 'photometric', for MONOCHROME1. Padding
    (PixelPaddingValue) is rendered as any other value, as dcmtk does: the standard leaves its look open.
    """
    with _guarded("not readable as DICOM"):
        from pydicom import dcmread

        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        header = _Header(dcmread(BytesIO(content), force=bool(images.HEADLESS.match(content))))
        if not header.elements or CUT_DELIMITER.search(content, len(content) - 7):  # pydicom minds neither
            raise Rejected("it is cut short, or holds no elements")
    with _guarded("its header breaks the DICOM standard"):
        _refuse_kind(header)
        facts = _facts(header)
    with _guarded(f"PixelData cannot be decoded: TransferSyntaxUID is {facts['transfer_syntax']}"):
        _refuse_undecodable(header, facts)
        stored = _stored_patterns(header)
    with _guarded("its grey values cannot be rendered"):
        half = 2 ** (facts["bits"] - 1) if header.whole("PixelRepresentation") else 0  # negative ones come first
        counts = np.roll(images.histogram(stored).reshape(-1, 2 ** facts["bits"]).sum(0), half)
        if np.count_nonzero(counts) == 1:
            raise Rejected("all its pixels have one grey value")
        grey, rendering, known = _grey_of_values(header, counts, -half, voi)
        levels = images.levels(grey, bits, _is_inverse(header, polarity))
        picture = images.look_up(np.roll(levels, -half), stored)
    if picture.min() == picture.max():
        raise Rejected("all its pixels have one grey value")
    return picture, facts | {"rendering": rendering, "grey_range": known, "faulty": " ".join(sorted(header.faulty))}


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


def _refuse_kind(header: _Header) -> None:
    """Raise Rejected unless the header is that of a radiograph with pixels that can be shown in grey."""
    from pydicom.uid import UID_dictionary

    modality = header.text("Modality")
    if modality not in MODALITIES:
        raise Rejected(f"Modality is {_shown(modality, OTHER_MODALITIES)}, not CR or DX")
    sop = str(header.value("SOPClassUID") or header.elements.file_meta.get("MediaStorageSOPClassUID") or "")
    if sop not in SOP_CLASSES:
        name = UID_dictionary[sop][0] if sop in UID_dictionary else _shown(sop, set())
        raise Rejected(f"SOPClassUID is {name}, not Computed Radiography, Digital X-Ray or Secondary Capture")
    frames = header.whole("NumberOfFrames", 1) or 1
    if frames != 1:
        raise Rejected(f"NumberOfFrames is {frames if 0 <= frames < 100_000 else 'very many'}, not 1")
    photometric, samples = header.text("PhotometricInterpretation"), header.whole("SamplesPerPixel", 1) or 1
    if photometric not in GREY_SAMPLES:
        shown = _shown(photometric, OTHER_PHOTOMETRICS)
        raise Rejected(f"PhotometricInterpretation is {shown}, not MONOCHROME1 or 2")
    if samples != GREY_SAMPLES[photometric]:
        raise Rejected(f"SamplesPerPixel is {samples} and PhotometricInterpretation is {photometric}")
    header.elements.NumberOfFrames, header.elements.SamplesPerPixel = 1, samples  # as pydicom asks for
    if header.text("BurnedInAnnotation") == "YES":
        raise Rejected("BurnedInAnnotation is YES: its pixels hold text that may identify the patient")
    if "PixelData" not in header.elements:
        raise Rejected("PixelData is missing")
    stored, allocated = header.whole("BitsStored"), header.whole("BitsAllocated")
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise Rejected(f"BitsStored {stored} of BitsAllocated {allocated}: 2 to 16 of 8 or 16 are read")
    if header.whole("PixelRepresentation") not in (0, 1):
        raise Rejected("PixelRepresentation is neither 0 nor 1")
    images.refuse_size(header.whole("Columns"), header.whole("Rows"))


def _facts(header: _Header) -> dict:
    """What a header says of its radiograph, and whose it is; Rejected if it is not a frontal one of a human chest."""
    species, breed = header.text("PatientSpeciesDescription"), header.text("PatientBreedDescription")
    animal = (
        "PatientSpeciesDescription is not human" if species not in HUMAN else "PatientBreedDescription" if breed else ""
    )
    animal = animal or header.described(ANIMALS, *DESCRIPTIONS)
    if animal:
        raise Rejected(f"the patient is an animal: {animal}")
    part, side = _body_part(header)
    view, contradiction = _view(header)
    photometric, shape = header.text("PhotometricInterpretation"), header.text("PresentationLUTShape")
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        contradiction += " PhotometricInterpretation PresentationLUTShape"
    if part == "guessed" and side in ("L", "R"):
        contradiction += " ImageLaterality BodyPartExamined"  # a chest is no paired part
    return {
        "photometric": photometric,
        "bits": header.whole("BitsStored"),
        "width": header.whole("Columns"),
        "height": header.whole("Rows"),
        "spacing_mm": _spacing(header),
        "view": view,
        "body_part": part,
        "laterality": side,
        "modality": header.text("Modality"),
        "transfer_syntax": _transfer_syntax(header),
        "contradiction": contradiction.strip(),
        "identifiers": {
            "patient_id": str(header.value("PatientID") or "").strip(),
            "sop_instance_uid": str(header.value("SOPInstanceUID") or "").strip(),
            "acquired": _acquired(header),
        },
    }


def _body_part(header: _Header) -> tuple[str, str]:
    """CHEST, THORAX or, if nothing names a part, 'guessed', and the side; Rejected if another part is named."""
    meaning, words, modifiers = header.coded("AnatomicRegionSequence", "AnatomicRegionModifierSequence")
    part, others = header.text("BodyPartExamined"), words & OTHER_BODY_PARTS
    if part and part not in CHEST:
        raise Rejected(f"BodyPartExamined is {_shown(part, OTHER_BODY_PARTS)}, not CHEST or THORAX")
    if others or (meaning and not words & CODED_CHEST):
        raise Rejected(f"AnatomicRegionSequence is {meaning or min(others)}, not the chest")
    named = any(CHEST & _words(header.text(keyword)) for keyword in DESCRIPTIONS)
    other = "" if part or words & CODED_CHEST or named else header.described(OTHER_BODY_PARTS, *DESCRIPTIONS)
    if other:
        raise Rejected(f"BodyPartExamined is missing and {other}")
    side = (header.text("ImageLaterality") or header.text("Laterality"))[:1]
    side = side or next((word[0] for word in ("BILATERAL", "LEFT", "RIGHT", "UNILATERAL") if word in modifiers), "")
    return part or ("CHEST" if words & CODED_CHEST else "guessed"), side if side in tuple("LRBU") else ""


def _view(header: _Header) -> tuple[str, str]:
    """PA, AP or '', and the elements that contradict each other; Rejected if the view is not a frontal one."""
    view = header.text("ViewPosition")
    if view in OTHER_VIEWS:
        raise Rejected(f"ViewPosition is {view}, not PA or AP")
    meaning, words, modifiers = header.coded("ViewCodeSequence", "ViewModifierCodeSequence")
    coded = next((name for name, parts in VIEW_WORDS.items() if any(part <= words for part in parts)), "")
    if words & NOT_FRONTAL or (meaning and not coded and "FRONTAL" not in words):
        raise Rejected(f"ViewCodeSequence is {meaning or min(words & NOT_FRONTAL)}, not PA or AP")
    if modifiers & NOT_FRONTAL:
        raise Rejected(f"ViewModifierCodeSequence names {min(modifiers & NOT_FRONTAL)}")
    if view in FRONTAL_VIEWS:
        return view, "ViewPosition ViewCodeSequence" if coded not in ("", view) else ""
    # The rows run to the left or right in a frontal view, to A or P in a lateral. A study description may name both.
    lateral = header.described({"LAT", "LATERAL"}, *DESCRIPTIONS[:-1])
    if str((header.value("PatientOrientation") or [""])[0])[:1].upper() in ("A", "P"):
        lateral = "PatientOrientation names A or P"
    if lateral and not coded:
        raise Rejected(f"it is a lateral view: {lateral}")
    return coded, ""


VIEW_WORDS = {
    "PA": ({"PA"}, {"POSTERO", "ANTERIOR"}, {"POSTEROANTERIOR"}),
    "AP": ({"AP"}, {"ANTERO", "POSTERIOR"}, {"ANTEROPOSTERIOR"}),
}


def _meaning(item: Any) -> tuple[str, set[str]]:
    """What a code means by the standard, or '' for codes that are not of it, and the words of that or of CodeMeaning."""
    value = str(item.get("CodeValue") or item.get("LongCodeValue") or "").strip()
    meaning = _standard_meaning(value, str(item.get("CodingSchemeDesignator") or "").strip().upper())
    return meaning, _words(meaning or str(item.get("CodeMeaning") or ""))


@lru_cache(1000)
def _standard_meaning(value: str, scheme: str) -> str:
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    scheme = {"SNM3": "SRT", "99SDM": "SRT"}.get(scheme, scheme)  # older names of SNOMED RT
    if scheme in ("SRT", "SCT") and value in OLD_CODES:
        return OLD_CODES[value]
    code = Code(value, scheme, "")  # equal to the code of SNOMED CT that has replaced it
    known = (known for group in CODE_GROUPS for known in getattr(codes, group).concepts.values())
    return next((same.meaning for same in known if same == code), "")


def _spacing(header: _Header) -> float | None:
    """Millimetres between square pixels at the detector; None if not given, not square or not sensible."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        pair = header.numbers(keyword)
        if len(pair) == 2 and 0.01 < pair[0] < 5 and abs(pair[0] - pair[1]) < 0.01 * pair[0]:
            return round(pair[0], 4)
    return None


def _acquired(header: _Header) -> Any:
    for text in (header.text(keyword) for keyword in ("AcquisitionDate", "StudyDate")):
        if re.fullmatch("(189[5-9]|19..|20..)....", text):
            with suppress(ValueError):
                return datetime.strptime(text, "%Y%m%d").date()
    return None


def _transfer_syntax(header: _Header) -> str:
    """Its name. Where it is missing, pydicom has seen from the elements which of three it must be."""
    from pydicom import uid

    meta, (implicit, little) = header.elements.file_meta, header.elements.original_encoding
    if not meta.get("TransferSyntaxUID"):
        if header.elements["PixelData"].is_undefined_length:
            raise Rejected("TransferSyntaxUID is missing and PixelData is compressed")
        header.faulty.add("TransferSyntaxUID")
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    name = str(meta.TransferSyntaxUID)
    return uid.UID_dictionary[name][0] if name in uid.UID_dictionary else "not a known one"


def _refuse_undecodable(header: _Header, facts: dict) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax, name = header.elements.file_meta.TransferSyntaxUID, facts["transfer_syntax"]
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise Rejected(f"PixelData cannot be decoded: there is no decoder for TransferSyntaxUID {name}") from None
    if syntax == JPEGExtended12Bit and facts["bits"] > 8:
        raise Rejected(f"no decoder of {name} at 12 bits has a permissive licence: decompress it with DCMTK's dcmdjpeg")
    samples = GREY_SAMPLES[facts["photometric"]] if facts["photometric"] != "YBR_FULL_422" else 2
    needed = facts["width"] * facts["height"] * samples * header.whole("BitsAllocated") // 8
    if not syntax.is_encapsulated and len(header.elements.PixelData) < needed:
        raise Rejected(
            f"PixelData has {len(header.elements.PixelData):,} bytes, fewer than the {needed:,} of its pixels"
        )


def _stored_patterns(header: _Header) -> np.ndarray:
    """Each pixel as an unsigned number, (height, width), whose lowest BitsStored bits are the stored ones."""
    from pydicom.pixels import pixel_array

    pixels = pixel_array(header.elements, correct_unused_bits=False)
    if pixels.shape[:2] != (header.whole("Rows"), header.whole("Columns")):
        raise Rejected("PixelData does not have the size that Rows and Columns say")
    pixels = images.one_channel(pixels)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False).view(f"u{pixels.itemsize}")
    bits = header.whole("BitsStored")
    unused_below = header.whole("HighBit", bits - 1) + 1 - bits
    if unused_below > 0 and not header.elements.file_meta.TransferSyntaxUID.is_encapsulated:
        pixels = pixels >> unused_below
    return pixels


def _grey_of_values(header: _Header, counts: np.ndarray, least: int, voi: bool) -> tuple[np.ndarray, str, str]:
    """Grey from 0 to 1 of each stored value from `least` on (a table is far shorter than a picture), how, by what range.

    `counts` (values,) are the pixels of each.
    """
    padding = header.first("PixelPaddingValue")
    if padding is not None:  # says nothing of the range
        others = counts.copy()
        others[int(padding - least) % len(counts)] = 0
        counts = others if np.count_nonzero(others) > 1 else counts
    grey, rendering, known = _declared_grey(header, counts, least, voi)
    grey, flat = images.spread(grey, counts)
    return grey, rendering, "unknown" if flat else known


def _declared_grey(header: _Header, counts: np.ndarray, least: int, voi: bool) -> tuple[np.ndarray, str, str]:
    low, high, known = images.used_range(counts, least)
    stored = np.arange(least, least + len(counts))
    table = _through_lut(header, "ModalityLUTSequence", stored)
    if table:
        x, (low, high), known = table[0], (0.0, table[1]), table[2]
    else:
        slope, intercept = header.first("RescaleSlope"), header.first("RescaleIntercept")
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if slope == 0 or not np.isfinite([stored[0] * slope + intercept, stored[-1] * slope + intercept]).all():
            header.faulty.add("RescaleSlope")
            slope, intercept = 1.0, 0.0
        x, (low, high) = stored * slope + intercept, sorted((low * slope + intercept, high * slope + intercept))
    table = _through_lut(header, "VOILUTSequence", x) if voi else None
    if table:
        return table[0] / table[1], "VOI LUT", table[2]
    centre, width = header.first("WindowCenter"), header.first("WindowWidth")
    function = header.text("VOILUTFunction") or "LINEAR"
    if voi and centre is not None and width is not None and (width >= 1 or (width > 0 and function != "LINEAR")):
        ends = x[counts > 0].min(), x[counts > 0].max()
        around = centre - width / 2 <= ends[0] and ends[1] <= centre + width / 2
        if not (around and WIDE * (ends[1] - ends[0]) <= width):
            return _window(x, centre, width, function), "window", "declared"
        known = "used"
    return (x - low) / (high - low), "range", known


def _through_lut(header: _Header, keyword: str, x: np.ndarray) -> tuple[np.ndarray, float, str] | None:
    """PS3.3 C.11.1.1.1: entries for values, the largest there can be, and whether the descriptor says so ('declared').

    Below the table its first entry holds, above it its last. None without a table, or with a faulty one.
    pydicom's own functions index with the type of the entries, so that more than 256 entries of 8 bits wrap around.
    """
    item = next(iter(header.value(keyword) or ()), None)
    if item is None:
        return None
    try:
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count % 65536 or 65536
        first -= 65536 if first > 32767 and x.min() < 0 else 0  # the sign is lost where the VR says unsigned
        data = item.LUTData
        if isinstance(data, bytes):  # of words, or packed bytes
            words = ("<" if header.elements.file_meta.TransferSyntaxUID.is_little_endian else ">") + "u2"
            data = np.frombuffer(data, words if len(data) >= 2 * count else np.uint8)
        entries = np.asarray(data, np.float64)[:count]
        most, white = int(entries.max()), 2**bits - 1
    except Exception:
        header.faulty.add(keyword)
        return None
    known = "declared" if 8 <= bits <= 16 and white // 2 <= most <= white else "used"
    white = white if known == "declared" else 2 ** most.bit_length() - 1
    return entries[np.clip(np.rint(x).astype(np.int64) - first, 0, len(entries) - 1)], max(1.0, white), known


def _window(x: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1: values to grey between 0 and 1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((x - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (x > centre - 0.5).astype(np.float64)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _is_inverse(header: _Header, polarity: str) -> bool:
    shape = header.text("PresentationLUTShape") if polarity == "shape" else ""
    return shape == "INVERSE" if shape else header.text("PhotometricInterpretation") == "MONOCHROME1"


def _shown(value: str, closed: set[str]) -> str:
    return value if value in closed else "not a known one" if value else "missing"
