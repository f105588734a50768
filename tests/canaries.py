"""Values that nothing else holds, planted wherever a source can hold an identifier, and the search for them."""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import numpy as np
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c
from PIL import Image, PngImagePlugin
from pydicom.charset import python_encoding
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sources import radiograph, save, stored_values

MARK = "ZQXJVKWPYB"  # every canary of plain text begins with it
UID = "2.25.731799115304862."  # and every UID with this
DATES = re.compile(rb"18(\d\d)[-/.]?([01]\d)[-/.]?([0-3]\d)(?!\d)")
TIMES = re.compile(rb"39:?27\.(\d{6})(?!\d)")
NUMBERS = re.compile(rb"1739(\d{6})(?!\d)")
# Eight digits come up by chance within the decimals of a probability, and within pseudonyms and checksums.
HEXADECIMAL_LETTERS = {letter.encode() for letter in "abcdef"}
INSIDE_A_NUMBER = {digit.encode() for digit in "0123456789."} | HEXADECIMAL_LETTERS
BASE64 = re.compile(rb"[A-Za-z0-9+/]{12,}")

# Table E.1-1 of PS3.15, by its tags; those with a mask stand for the repeating groups of curves and overlays.
TABLE = sorted(tag for tag in dicomfields_2026c.ALL_TAGS if len(tag) == 2)
REPEATING = sorted(tag for tag in dicomfields_2026c.ALL_TAGS if len(tag) == 4)
# What decides whether a file is accepted and how its pixels are read stays as it is.
DECIDING = {"Modality", "PhotometricInterpretation", "BodyPartExamined", "PresentationLUTShape", "VOILUTFunction"}
DECIDING |= {"PatientSpeciesDescription", "PatientBreedDescription", "SpecificCharacterSet", "PixelPresentation"}
DECIDING |= {"BurnedInAnnotation", "SOPClassUID", "ViewPosition", "PatientOrientation", "ModalityLUTSequence"}
DECIDING |= {"VOILUTSequence", "ImagerPixelSpacing"}
PLANTED_BY_HAND = {"IconImageSequence", "ContentSequence", "SOPInstanceUID", "DataSetTrailingPadding"}

# Letters of each character set that together occur nowhere else; the canaries in it begin with them.
CHARACTER_SETS = {
    "ISO_IR 100": "çãñøß", "ISO_IR 101": "ąčęłő", "ISO_IR 109": "ĉĝĥĵŝ", "ISO_IR 110": "āķļņŧ",
    "ISO_IR 144": "Ђжщюя", "ISO_IR 127": "ضظغقك", "ISO_IR 126": "ξψωφθ", "ISO_IR 138": "שצקפט",
    "ISO_IR 148": "ğışöü", "ISO_IR 166": "ฌญฐฑฒ", "ISO_IR 192": "ḉṩẅợằ",
    "GB18030": "龘靐齉爩麤", "GBK": "囍淼焱垚犇", "ISO 2022 IR 87": "鬱薔薇檸檬", "ISO 2022 IR 149": "훈짚뭇깥웍",
}  # fmt: skip


class Planted:
    """Hands out canaries, each once, and remembers where each was planted."""

    def __init__(self) -> None:
        self.where: dict[str, str] = {}
        self.numeric: set[str] = set()  # dates, fractions of seconds, numbers
        self._days = 0

    def _new(self, value: str, where: str) -> str:
        assert value not in self.where
        self.where[value] = where
        if value[0].isdigit():
            self.numeric.add(value[-6:] if "3927." in value else value)
        return value

    def text(self, where: str, prefix: str = MARK) -> str:
        return self._new(f"{prefix}{np.base_repr(len(self.where) + 46656, 36)}", where)

    def uid(self, where: str) -> str:
        return self._new(f"{UID}{len(self.where)}", where)

    def day(self, where: str) -> str:
        self._days += 1
        return self._new(f"{date(1800, 1, 1) + timedelta(self._days):%Y%m%d}", where)

    def time(self, where: str) -> str:
        return self._new(f"{len(self.where) % 24:02}3927.{len(self.where) + 300_000:06}", where)

    def number(self, where: str) -> int:
        return int(self._new(f"1739{len(self.where):06}", where))

    def of(self, vr: str, where: str):
        """A canary that an element of this value representation can hold."""
        if vr in ("DA", "TM", "DT", "UI", "IS", "DS"):
            make = {"DA": self.day, "TM": self.time, "UI": self.uid, "IS": self.number, "DS": self.number}
            return make[vr](where) if vr in make else self.day(where) + self.time(where)
        if vr in ("UL", "SL", "UV", "SV", "FD"):
            return self.number(where)
        return (
            self.text(where).encode().ljust(16)
            if vr in ("OB", "OW", "OD", "OF", "OL", "OV", "UN")
            else self.text(where)
        )


def leaks(content: bytes, planted: Planted) -> set[str]:
    """What in these bytes comes from a canary: as text in any of the encodings, and within base64."""
    found = _plain(content, planted)
    for run in set(BASE64.findall(content)):
        for start in range(4):
            cut = run[start:]
            found |= _plain(base64.b64decode(cut[: len(cut) // 4 * 4]), planted)
    return found


def _plain(content: bytes, planted: Planted) -> set[str]:
    narrow = content.replace(b"\0", b"")  # UTF-16 and UTF-32 of plain letters become ASCII
    found = {form for form, sought in _forms() if sought in content}
    found |= {mark for mark in (MARK, UID) if mark.encode() in narrow.upper()}
    for shape, start in ((DATES, "18"), (TIMES, ""), (NUMBERS, "1739")):
        for match in shape.finditer(narrow):
            value = start + b"".join(match.groups()).decode()
            before, after = narrow[match.start() - 1 : match.start()], narrow[match.end() : match.end() + 1]
            by_chance = before in INSIDE_A_NUMBER or after in HEXADECIMAL_LETTERS
            if value in planted.numeric and (shape is TIMES or not by_chance):
                found.add(value)
    return found


@cache
def _forms() -> list[tuple[str, bytes]]:
    forms = []
    for name, letters in CHARACTER_SETS.items():
        own = _in_character_set(letters, name)
        ways = {
            "its own": own,
            "its own taken for Latin-1": own.decode("latin-1").encode(),
            "JSON": json.dumps(letters)[1:-1].encode(),
        }
        ways |= {code: letters.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")}
        forms += [(f"{name} in {way}", sought) for way, sought in ways.items()]
    return forms


def _in_character_set(letters: str, name: str) -> bytes:
    return re.sub(rb"\x1b[^a-zA-Z]*[a-zA-Z]", b"", letters.encode(python_encoding[name]))


def leaks_of_folder(folder: Path, planted: Planted) -> dict[str, set[str]]:
    """Every file below `folder` whose name or bytes hold a canary."""
    found = {}
    for path in sorted(folder.rglob("*")):
        told = leaks(str(path.relative_to(folder)).encode("utf-8", "surrogateescape"), planted)
        told |= leaks(path.read_bytes(), planted) if path.is_file() else set()
        if told:
            found[str(path.relative_to(folder))] = told
    return found


def header(planted: Planted, number: int, everything: bool = False, **elements) -> Dataset:
    """A radiograph with a canary in every attribute of Table E.1-1 that does not decide its fate.

    `everything` goes further, to every attribute of the standard's dictionary.
    """
    made = radiograph(stored_values(seed=number))
    where = f"file {number}"
    for tag in sorted(_TABLE_TAGS | (set(DicomDictionary) if everything else set())):
        vr, _, _, _, keyword = DicomDictionary.get(tag, ("LO", "1", "", "", ""))
        group = tag >> 16
        if group in (0x0000, 0x0002, 0x7FE0, 0xFFFE) or keyword in DECIDING | PLANTED_BY_HAND | set(elements):
            continue
        if " or " in vr:
            continue
        if group == 0x0028 and vr not in ("LO", "LT", "ST", "CS", "UI", "SH"):
            continue
        if vr in ("US", "SS", "AT", "FL", "OB", "OW", "OF") and tag not in _TABLE_TAGS:
            continue
        made.add_new(tag, vr, _value(planted, vr, tag, where))
    _plant_everywhere_else(made, planted, where)
    made.BurnedInAnnotation = "NO"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


_TABLE_TAGS = {(group << 16) + element for group, element in TABLE}


def _value(planted: Planted, vr: str, tag: int, where: str):
    place = f"{where} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    if vr == "SQ":
        return Sequence([_item(planted, place)])
    return 17 if vr in ("US", "SS", "AT", "FL") else planted.of(vr, place)


def _item(planted: Planted, place: str) -> Dataset:
    item = Dataset()
    item.PatientName, item.PatientID = planted.text(place + " name"), planted.text(place + " id")
    item.StudyDate, item.StudyInstanceUID = planted.day(place + " date"), planted.uid(place + " uid")
    return item


def _plant_everywhere_else(made: Dataset, planted: Planted, where: str) -> None:
    level = made
    for depth in range(1, 6):  # structured content, each level within the one before
        item = _item(planted, f"{where} depth {depth}")
        item.ValueType, item.TextValue = "TEXT", planted.text(f"{where} text at depth {depth}")
        item.PersonName, item.DateTime = (
            planted.text(f"{where} depth {depth}"),
            planted.of("DT", f"{where} depth {depth}"),
        )
        code = Dataset()
        code.CodeMeaning, code.CodeValue = planted.text(f"{where} meaning"), planted.text(f"{where} code")
        item.ConceptNameCodeSequence = Sequence([code])
        item.private_block(0x0041, planted.text(f"{where} creator"), create=True).add_new(1, "LO", planted.text(where))
        level.ContentSequence = Sequence([item])
        level = item
    for group in (0x0009, 0x0011, 0x0019, 0x0029, 0x0045, 0x00E1, 0x7FE1):
        block = made.private_block(group, planted.text(f"{where} private creator {group:04X}"), create=True)
        for element, vr in enumerate(("LO", "PN", "UN", "OB", "DA", "UI", "LT", "IS"), start=1):
            block.add_new(element, vr, planted.of(vr, f"{where} private {group:04X} {vr}"))
        block.add_new(0x20, "SQ", Sequence([_item(planted, f"{where} private {group:04X}")]))
    for group in (0x5000, 0x5002, 0x6000, 0x6002):
        for element, vr in {0x22: "LO", 0x1500: "LO", 0x2500: "LO", 0x3000: "OW", 0x4000: "LT"}.items():
            made.add_new((group << 16) + element, vr, planted.of(vr, f"{where} ({group:04X},{element:04X})"))
    icon = Dataset()
    icon.Rows = icon.Columns = icon.BitsAllocated = icon.BitsStored = 8
    icon.PixelData, icon.ImageComments = planted.of("OB", f"{where} icon").ljust(64), planted.text(f"{where} icon")
    made.IconImageSequence = Sequence([icon])
    made.add_new(0xFFFCFFFC, "OB", planted.of("OB", f"{where} trailing padding"))
    made.preamble = planted.text(f"{where} preamble").ljust(128).encode()
    meta = made.file_meta
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = planted.uid(f"{where} (0008,0018) and (0002,0003)")
    meta.ImplementationVersionName = planted.text(f"{where} meta")
    meta.SourceApplicationEntityTitle = planted.text(f"{where} meta")
    meta.SendingApplicationEntityTitle = planted.text(f"{where} meta")
    meta.PrivateInformationCreatorUID = planted.uid(f"{where} meta")
    meta.PrivateInformation = planted.of("OB", f"{where} meta")


def in_character_set(planted: Planted, number: int, name: str) -> Dataset:
    """A radiograph whose names and texts are written in one of the character sets."""
    made = radiograph(stored_values(seed=number))
    made.SpecificCharacterSet = ["", name] if name.startswith("ISO 2022") else name
    for keyword in ("PatientName", "PatientID", "PatientAddress", "PatientComments", "InstitutionName", "StudyID"):
        setattr(made, keyword, planted.text(f"{name} {keyword}", CHARACTER_SETS[name]))
    for keyword in ("ReferringPhysicianName", "OperatorsName", "SeriesDescription", "ImageComments", "StationName"):
        setattr(made, keyword, planted.text(f"{name} {keyword}", CHARACTER_SETS[name]))
    return made


def save_jpg(path: Path, picture: np.ndarray, planted: Planted) -> None:
    """A JPG with canaries as EXIF, XMP, IPTC, colour profile and comment."""
    exif = Image.Exif()
    for tag in (0x010E, 0x010F, 0x0131, 0x013B, 0x8298):  # description, maker, software, artist, copyright
        exif[tag] = planted.text(f"EXIF {tag:04X}")
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + planted.text("XMP").encode() + b"</x:xmpmeta>"
    image = Image.fromarray(picture)
    image.save(path, "JPEG", quality=95, exif=exif, comment=planted.text("JPG comment").encode())
    content = path.read_bytes()
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + planted.text("IPTC").encode()
    profile = b"ICC_PROFILE\0\1\1" + planted.text("JPG colour profile").encode()
    for marker, part in ((b"\xff\xe1", xmp), (b"\xff\xed", iptc), (b"\xff\xe2", profile)):
        content = content[:2] + marker + (len(part) + 2).to_bytes(2, "big") + part + content[2:]
    path.write_bytes(content)


def save_png(path: Path, picture: np.ndarray, planted: Planted) -> None:
    """A PNG with canaries as text, packed text, international text, EXIF and a private chunk."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", planted.text("PNG text"))
    info.add_text("Author", planted.text("PNG packed text"), zip=True)
    info.add_itxt("Title", planted.text("PNG international text"), lang="de", tkey=planted.text("PNG translated key"))
    info.add_text(planted.text("PNG key"), "x")
    exif = Image.Exif()
    exif[0x013B] = planted.text("PNG EXIF")
    Image.fromarray(picture).save(path, "PNG", pnginfo=info, exif=exif)
    content, part = path.read_bytes(), b"prVt" + planted.text("PNG private chunk").encode()
    chunk = (len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big")
    path.write_bytes(content[:33] + chunk + content[33:])


def accepted(planted: Planted) -> Iterator[Dataset]:
    """Radiographs that become images."""
    yield from (header(planted, number, everything=number == 0) for number in range(6))
    yield from (in_character_set(planted, 20 + number, name) for number, name in enumerate(CHARACTER_SETS))


def rejected(planted: Planted) -> Iterator[Dataset]:
    """Files that do not, for reasons that must not quote them."""
    for keyword in ("Modality", "BodyPartExamined", "PhotometricInterpretation", "PatientSpeciesDescription"):
        yield header(planted, 50, **{keyword: planted.text(f"rejected by {keyword}")})
    yield header(planted, 51, SOPClassUID=planted.uid("rejected by SOPClassUID"))
    yield header(planted, 52, NumberOfFrames=planted.number("rejected by NumberOfFrames"))
    yield header(planted, 53, everything=True, PixelData=b"12")
    yield header(planted, 54, BurnedInAnnotation="YES")
    yield header(planted, 55, SeriesDescription=planted.text("rejected by view") + " LATERAL", ViewPosition="")
    yield header(planted, 56, PatientBreedDescription=planted.text("rejected by breed"))
    compressed = header(planted, 57)
    compressed.file_meta.TransferSyntaxUID = planted.uid("rejected by transfer syntax")
    yield compressed


def source(folder: Path, planted: Planted) -> tuple[int, int]:
    """A source folder full of canaries with its labels CSV; returns how many files it accepts and rejects."""
    inner = folder / planted.text("folder name") / planted.text("second folder name")
    column, lines = planted.text("column name"), []
    good, bad = list(accepted(planted)), list(rejected(planted))
    for number, made in enumerate(good + bad):
        path = inner / f"{planted.text('file name')}.dcm"
        if made.file_meta.TransferSyntaxUID.startswith(UID):
            made.save_as(path, implicit_vr=False, little_endian=True)
        else:
            save(made, path)
        lines.append(_row(path.relative_to(folder), number % 2, planted))
    for number in range(8):
        form, write = ("jpg", save_jpg) if number % 2 else ("png", save_png)
        path = folder / f"{planted.text('file name')}.{form}"
        values = np.random.default_rng(number).integers(0, 256, (80, 96)).astype(np.uint8)
        write(
            path,
            values if number < 6 else np.dstack([values, values.T[:80, :80].repeat(2, 1)[:, :96], values]),
            planted,
        )
        lines.append(_row(path.relative_to(folder), number // 2 % 2, planted))
    whole = (inner / next(inner.iterdir()).name).read_bytes()
    (folder / f"{planted.text('cut file')}.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / f"{planted.text('junk file')}.txt").write_text(planted.text("junk content"))
    (folder / planted.text("link name")).symlink_to(folder / planted.text("link target"))
    head = f"file,label,patient_id,view,{column},findings\n"
    (folder / "labels.csv").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return len(good) + 6, len(bad) + 2 + 3


def _row(file: Path, label: int, planted: Planted) -> str:
    cells = [planted.text(f"CSV {what}") for what in ("patient_id", "view", "named column", "findings")]
    return ",".join([str(file), str(label), *cells])
