"""One DICOM file -> a grey radiograph and a few harmless facts, or one line saying why not.

Nothing leaves this file but pixels, numbers, and words from closed lists (and `identifiers`, for making pseudonyms).
Errors and warnings of the libraries below may quote a header; they end here too.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pneumo_nb.prepare import images
from pneumo_nb.prepare.images import Rejected, refuse

CUT_DELIMITER = re.compile(rb"\xfe\xff\xdd\xe0\0{0,3}\Z")  # of the encoded pixels, with less than its four zeros

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: how converted radiographs are often stored
}


def _words(text: str) -> set[str]:
    return set(re.findall("[A-Z]+", text.upper()))


# Closed lists: the only values of a header that a reason may repeat.
OTHER_MODALITIES = _words("BI CT DG ECG ES IO KO MG MR NM OCT OP OT PR PT PX RF RG RTDOSE RTIMAGE SC SEG SR US XA XC")
SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1}  # and those whose three channels may turn out to be equal
SAMPLES |= dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3)
OTHER_COLOURS = {"PALETTE COLOR", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "ARGB", "HSV", "CMYK"}
OTHER_VIEWS = _words("L LL RL LATERAL LAT LLD RLD LLO RLO LAO RAO LPO RPO")
NOT_FRONTAL = OTHER_VIEWS - {"L"} | _words("OBLIQUE DECUBITUS AXIAL SAGITTAL")
CHEST = _words("CHEST THORAX")
CODED_CHEST = CHEST | _words("THORACIC LUNG LUNGS")  # by a code of the standard, with none but these:
BESIDE_CHEST = _words("INTRA APEX OF")
OTHER_BODY_PARTS = _words(
    "ABDOMEN ANKLE ARM BREAST CALCANEUS CERVICAL CLAVICLE COCCYX CSPINE DENTAL ELBOW EXTREMITY FEMUR FINGER FOOT "
    "FOREARM HAND HEAD HIP HUMERUS JAW KNEE KUB LEG LSPINE MANDIBLE MAXILLA NECK PATELLA PELVIS RIB RIBCAGE RIBS "
    "SACRUM SCAPULA SHOULDER SKULL SPINE SSPINE STERNUM TEETH THIGH THUMB TIBIA TOE TSPINE WRIST"
)
ANIMALS = _words("AVIAN BOVINE CANINE EQUINE FELINE OVINE PORCINE VETERINARY")
HUMAN = {"PatientSpeciesDescription": {"", "HUMAN", "HOMO SAPIENS"}, "PatientBreedDescription": {""}}
DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "StudyDescription")
SIDES = _words("LEFT RIGHT BILATERAL UNILATERAL")
FRONTAL_VIEWS = {"PA": ({"PA"}, {"POSTERO", "ANTERIOR"}, {"POSTEROANTERIOR"})}  # and by what words they are known
FRONTAL_VIEWS |= {"AP": ({"AP"}, {"ANTERO", "POSTERIOR"}, {"ANTEROPOSTERIOR"})}
RENDERED_BY = {"VOI LUT": "VOILUTSequence", "window": "WindowCenter and WindowWidth", "range": "PixelData"}
# PS3.16 groups of codes for views and regions; pydicom has them, but for these older codes of SNOMED.
CODE_GROUPS = ("cid4", "cid4009", "cid4031", "cid4010", "cid4011", "cid244")
OLD_CODES = dict.fromkeys(("51185008", "T-D3000", "67734004"), "thorax") | {"R-10214": "postero-anterior"}
OLD_CODES |= dict.fromkeys(("113345001", "818983003", "T-D4000"), "abdomen")
OLD_CODES |= dict.fromkeys(("12921003", "T-D6000"), "pelvis") | {"R-10202": "frontal"}


class _Header:
    """The elements of a header; one that cannot be read counts as absent, and is listed in `faulty`."""

    def __init__(self, elements: Any) -> None:
        self.elements, self.faulty = elements, set()

    def value(self, keyword: str) -> Any:
        with suppress(Exception):
            return self.elements.get(keyword)
        self.faulty.add(keyword)
        return None

    def text(self, keyword: str) -> str:
        return str(self.value(keyword) or "").strip().upper()

    def numbers(self, keyword: str) -> list[float]:
        """Its finite numbers: none if it is absent, empty or faulty."""
        value = self.value(keyword)
        parts = value.split("\\") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
        with suppress(ValueError, TypeError, OverflowError):
            found = [float(part) for part in parts if part is not None and str(part).strip()]
            if all(map(math.isfinite, found)):
                return found
        self.faulty.add(keyword)
        return []

    def first(self, keyword: str, otherwise: float | None = None) -> float | None:
        """Its first number: of several windows, the default view."""
        return next(iter(self.numbers(keyword)), otherwise)

    def whole(self, keyword: str, otherwise: int | None = None) -> int:
        number = self.first(keyword, otherwise)
        refuse(number is None, f"{keyword} is {'not a number' if keyword in self.faulty else 'missing'}")
        return int(number)

    def naming(self, closed: set[str], descriptions: Sequence[str]) -> str:
        """'<element> names <word>' for the first of the descriptions with a word of a closed list, or ''."""
        for keyword in descriptions:
            if words := _words(self.text(keyword)) & closed:
                return f"{keyword} names {min(words)}"
        return ""


def read(source: Path | bytes, voi: bool = True, bits: int = 8, polarity: str = "shape") -> tuple[np.ndarray, dict]:
    """Render one single-frame frontal chest radiograph as it is meant to be seen: lungs dark, bones white.

    `source` is a path, or all bytes of a file. Returns the picture, (height, width) of uint8 or (`bits` 16) uint16, and
    a dict of facts: photometric, bits (stored), width, height, spacing_mm (or None), view (PA, AP or ''), body_part
    (CHEST, THORAX or 'guessed'), laterality (L, R, B, U or ''), transfer_syntax, rendering (VOI LUT, window or range);
    for a person: grey_range (see images.rendered), faulty and contradiction (elements); and for pseudonyms alone,
    identifiers: patient_id, sop_instance_uid, acquired (a date or None). Raises Rejected for every other file.
    The pixels go the way of PS3.3 C.11 and PS3.4 N.2: modality LUT, then VOI LUT or window (unless `voi` is false),
    then inversion by PresentationLUTShape or, without one or with `polarity` 'photometric', for MONOCHROME1.
    """
    with _guarded("not readable as DICOM"):
        from pydicom import dcmread

        content = source if isinstance(source, bytes) else source.read_bytes()
        header = _Header(dcmread(BytesIO(content), force=bool(images.HEADLESS.match(content))))
        if not header.elements or CUT_DELIMITER.search(content, len(content) - 7):  # pydicom minds neither
            raise Rejected("it is cut short, or holds no elements")
    with _guarded("its header breaks the DICOM standard"):
        _refuse_kind(header)
        facts = _facts(header)
    with _guarded(f"PixelData cannot be decoded: TransferSyntaxUID is {facts['transfer_syntax']}"):
        stored = _stored_patterns(header, facts)
    with _guarded("its grey values cannot be rendered"):
        half = 2 ** (facts["bits"] - 1) if header.whole("PixelRepresentation") else 0  # negative ones come first
        for some in (images.few_rows(stored), stored):  # a few tell that most radiographs are rightly declared
            counts = np.roll(images.histogram(some).reshape(-1, 2 ** facts["bits"]).sum(0), half)
            grey, facts["rendering"], facts["grey_range"] = images.rendered(header, counts, -half, voi)
            if facts["grey_range"] == "declared":
                break
        shape = header.text("PresentationLUTShape") if polarity == "shape" else ""
        inverse = shape == "INVERSE" if shape else facts["photometric"] == "MONOCHROME1"
        picture = images.look_up(np.roll(images.levels(grey, bits, inverse), -half), stored)
    refuse(picture.min() == picture.max(), f"all its pixels have one grey value by {RENDERED_BY[facts['rendering']]}")
    return picture, facts | {"faulty": " ".join(sorted(header.faulty))}


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into Rejected(`what`) and the kind of error; keep the libraries' words from getting out.

    BaseException, because decoders written in Rust panic past Exception.
    """
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"):
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

    modality, photometric = header.text("Modality"), header.text("PhotometricInterpretation")
    refuse(modality not in ("CR", "DX"), f"Modality is {_shown(modality, OTHER_MODALITIES)}, not CR or DX")
    sop = str(header.value("SOPClassUID") or header.elements.file_meta.get("MediaStorageSOPClassUID") or "")
    if sop not in SOP_CLASSES:
        name = UID_dictionary.get(sop, [_shown(sop, set())])[0]
        raise Rejected(f"SOPClassUID is {name}, not Computed Radiography, Digital X-Ray or Secondary Capture")
    frames, samples = header.whole("NumberOfFrames", 1) or 1, header.whole("SamplesPerPixel", 1) or 1
    refuse(frames != 1, f"NumberOfFrames is {frames if 0 <= frames < 100_000 else 'very many'}, not 1")
    if photometric not in SAMPLES:
        raise Rejected(f"PhotometricInterpretation is {_shown(photometric, OTHER_COLOURS)}, not MONOCHROME1 or 2")
    if samples != SAMPLES[photometric]:
        raise Rejected(f"SamplesPerPixel is {samples} and PhotometricInterpretation is {photometric}")
    header.elements.NumberOfFrames, header.elements.SamplesPerPixel = 1, samples  # as pydicom asks for
    if header.text("BurnedInAnnotation") == "YES":
        raise Rejected("BurnedInAnnotation is YES: its pixels hold text that may identify the patient")
    refuse("PixelData" not in header.elements, "PixelData is missing")
    stored, allocated = header.whole("BitsStored"), header.whole("BitsAllocated")
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise Rejected(f"BitsStored {stored} of BitsAllocated {allocated}: 2 to 16 of 8 or 16 are read")
    header.whole("PixelRepresentation")
    images.refuse_size(header.whole("Columns"), header.whole("Rows"), "Columns x Rows")


def _facts(header: _Header) -> dict:
    """What a header says of its radiograph, and whose it is; Rejected if it is not a frontal one of a human chest."""
    strange = [keyword for keyword, human in HUMAN.items() if header.text(keyword) not in human]
    refuse(animal := " ".join(strange) or header.naming(ANIMALS, DESCRIPTIONS), f"the patient is an animal: {animal}")
    part, side = _body_part(header)
    view, contradiction = _view(header)
    photometric, shape = header.text("PhotometricInterpretation"), header.text("PresentationLUTShape")
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        contradiction += " PhotometricInterpretation PresentationLUTShape"
    if part == "guessed" and side in ("L", "R"):
        contradiction += " ImageLaterality BodyPartExamined"  # a chest is no paired part
    facts = {"photometric": photometric, "bits": header.whole("BitsStored"), "spacing_mm": _spacing(header)}
    facts |= {"width": header.whole("Columns"), "height": header.whole("Rows"), "contradiction": contradiction.strip()}
    facts |= {"view": view, "body_part": part, "laterality": side, "transfer_syntax": _transfer_syntax(header)}
    patient, uid = (str(header.value(keyword) or "").strip() for keyword in ("PatientID", "SOPInstanceUID"))
    return facts | {"identifiers": {"patient_id": patient, "sop_instance_uid": uid, "acquired": _acquired(header)}}


def _body_part(header: _Header) -> tuple[str, str]:
    """CHEST, THORAX or, if nothing names a part, 'guessed', and the side; Rejected if another part is named."""
    meaning, words, modifiers = _coded(header, "AnatomicRegionSequence", "AnatomicRegionModifierSequence")
    part, others = header.text("BodyPartExamined"), words & OTHER_BODY_PARTS
    refuse(part and part not in CHEST, f"BodyPartExamined is {_shown(part, OTHER_BODY_PARTS)}, not CHEST or THORAX")
    if others or (meaning and not words <= CODED_CHEST | BESIDE_CHEST):
        raise Rejected(f"AnatomicRegionSequence is {meaning or min(others)}, not the chest")
    unnamed = not part and not words & CODED_CHEST and not header.naming(CHEST, DESCRIPTIONS)
    if unnamed and (other := header.naming(OTHER_BODY_PARTS, DESCRIPTIONS)):
        raise Rejected(f"BodyPartExamined is missing and {other}")
    side = (header.text("ImageLaterality") or header.text("Laterality") or " ".join(modifiers & SIDES))[:1]
    return part or ("CHEST" if words & CODED_CHEST else "guessed"), side if side in set("LRBU") else ""


def _view(header: _Header) -> tuple[str, str]:
    """PA, AP or '', and elements that contradict each other; Rejected if the view is not a frontal one."""
    view = header.text("ViewPosition")
    refuse(view in OTHER_VIEWS, f"ViewPosition is {view}, not PA or AP")
    meaning, words, modifiers = _coded(header, "ViewCodeSequence", "ViewModifierCodeSequence")
    coded = next((name for name, known in FRONTAL_VIEWS.items() if any(each <= words for each in known)), "")
    if words & NOT_FRONTAL or (meaning and not coded and "FRONTAL" not in words):
        raise Rejected(f"ViewCodeSequence is {meaning or min(words & NOT_FRONTAL)}, not PA or AP")
    if modifiers & NOT_FRONTAL:
        raise Rejected(f"ViewModifierCodeSequence names {min(modifiers & NOT_FRONTAL)}, which is not frontal")
    if view in FRONTAL_VIEWS:
        return view, "ViewCodeSequence ViewPosition" if coded not in ("", view) else ""
    # The rows run to the left or right in a frontal view, to A or P in a lateral. A study description may name both.
    lateral = header.naming({"LAT", "LATERAL"}, DESCRIPTIONS[:-1])
    if str((header.value("PatientOrientation") or [""])[0])[:1].upper() in ("A", "P"):
        lateral = "PatientOrientation begins with A or P"
    refuse(lateral and not coded, f"it is a lateral view: {lateral}")
    return coded, ""


def _coded(header: _Header, keyword: str, modifiers: str) -> tuple[str, set[str], set[str]]:
    """What a coded element means by the standard ('' for other codes), its words, and those of its modifiers."""
    if items := header.value(keyword):
        with suppress(Exception):
            inner = items[0].get(modifiers) or header.value(modifiers) or ()
            return *_meaning(items[0]), set().union(*(_meaning(modifier)[1] for modifier in inner))
        header.faulty.add(keyword)
    return "", set(), set()


def _meaning(item: Any) -> tuple[str, set[str]]:
    """What a code means by the standard, or '', and the words of that or else of CodeMeaning."""
    value = str(item.get("CodeValue") or item.get("LongCodeValue") or "").strip()
    meaning = _standard_meaning(value, str(item.get("CodingSchemeDesignator") or "").strip().upper())
    return meaning, _words(meaning or str(item.get("CodeMeaning") or ""))


@lru_cache(1000)
def _standard_meaning(value: str, scheme: str) -> str:
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    scheme = "SRT" if scheme in ("SNM3", "99SDM") else scheme  # older names of SNOMED RT
    if scheme in ("SRT", "SCT") and value in OLD_CODES:
        return OLD_CODES[value]
    code = Code(value, scheme, "")  # equal to the code of SNOMED CT that has replaced it
    known = (known for group in CODE_GROUPS for known in getattr(codes, group).concepts.values())
    return next((same.meaning for same in known if same == code), "")


def _spacing(header: _Header) -> float | None:
    """Millimetres between square pixels at the detector; None if not given, not square or not sensible."""
    pairs = map(header.numbers, ("ImagerPixelSpacing", "PixelSpacing"))
    right = (p for p in pairs if len(p) == 2 and 0.01 < p[0] < 5 and abs(p[0] - p[1]) < 0.01 * p[0])
    return next((round(across, 4) for across, _ in right), None)


def _acquired(header: _Header) -> date | None:
    for text in map(header.text, ("AcquisitionDate", "StudyDate")):
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
    return uid.UID_dictionary.get(str(meta.TransferSyntaxUID), ["not a known one"])[0]


def _stored_patterns(header: _Header, facts: dict) -> np.ndarray:
    """Each pixel as an unsigned number, (height, width), whose lowest bits (BitsStored) are the stored ones."""
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    syntax, name, bits = header.elements.file_meta.TransferSyntaxUID, facts["transfer_syntax"], facts["bits"]
    if syntax == JPEGExtended12Bit and bits > 8:
        raise Rejected(f"no decoder of {name} at 12 bits has a permissive licence: decompress it with DCMTK's dcmdjpeg")
    samples = 2 if facts["photometric"] == "YBR_FULL_422" else SAMPLES[facts["photometric"]]
    needs = facts["width"] * facts["height"] * samples * header.whole("BitsAllocated") // 8
    if not syntax.is_encapsulated and (has := len(header.elements.PixelData)) < needs:
        raise Rejected(f"PixelData has {has:,} bytes and its pixels need {needs:,}")
    pixels = images.one_channel(pixel_array(header.elements, correct_unused_bits=False), "PixelData")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False).view(f"u{pixels.itemsize}")
    unused_below = 0 if syntax.is_encapsulated else header.whole("HighBit", bits - 1) + 1 - bits
    return pixels >> unused_below if unused_below > 0 else pixels


def _shown(value: str, closed: set[str]) -> str:
    return value if value in closed else "not a known one" if value else "missing"
