"""Identifiers planted wherever a source can hold them, and looked for in all that preparing leaves or prints."""

import base64
import zlib

import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sources import picture, radiograph, save, stored_values

from pneumo_nb import images, paths
from pneumo_nb.prepare import prepare, read_dataset, summary

CANARY = "ZQXJVKWPYB"
FORMS = [CANARY.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
FORMS += [base64.b64encode(b" " * shift + CANARY.encode())[4 if shift else 0 : 12] for shift in range(3)]
TEXT = {"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
NEEDED = {"Modality", "PhotometricInterpretation", "BodyPartExamined", "PresentationLUTShape", "VOILUTFunction"}
NEEDED |= {"PatientSpeciesDescription", "PatientBreedDescription", "SpecificCharacterSet", "PixelPresentation"}


def haystack_has_canary(haystack: bytes) -> bool:
    return any(form in haystack or form in haystack.upper() for form in FORMS)


def full_of_canaries(**elements) -> Dataset:
    """A radiograph with an identifier in every text element of the standard, nested and private ones too."""
    header = radiograph(stored_values(), **elements)
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if vr in TEXT and group not in (0x0000, 0x0002, 0x7FE0) and not retired and keyword not in NEEDED:
            header.add_new(tag, vr, CANARY)
    inner = Dataset()
    inner.PatientName = inner.PatientID = CANARY
    middle = Dataset()
    middle.ReferencedStudySequence = Sequence([inner])
    header.RequestAttributesSequence = Sequence([middle])
    block = header.private_block(0x0029, CANARY, create=True)
    block.add_new(1, "LO", CANARY)
    header.add_new(0x60000022, "LO", CANARY)
    header.preamble = CANARY.ljust(128).encode()
    header.file_meta.ImplementationVersionName = CANARY
    header.BurnedInAnnotation = elements.get("BurnedInAnnotation", "NO")
    return header


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_identifier_goes_on(home, tmp_path, capfd, caplog):
    source, lines = tmp_path / f"{CANARY} 1970-01-01", [f"file,label,patient_id,{CANARY},findings"]
    for number in range(14):
        name = f"{CANARY}-{number}.dcm"
        change = {12: {"Modality": "CT"}, 13: {"PixelData": b"12"}}.get(number, {})
        save(full_of_canaries(**change), source / CANARY / name)
        lines.append(f"{CANARY}/{name},{number % 2},{CANARY}{number},{CANARY},{CANARY}")
    jpg, png = images.encode(picture(), "jpg"), images.encode(picture(2), "png")
    comment, text = CANARY.encode() * 3, b"tEXtComment\0" + CANARY.encode()
    (source / f"{CANARY}.jpg").write_bytes(
        jpg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpg[2:] + b"\0"
    )
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    (source / f"{CANARY}.png").write_bytes(png[:33] + chunk + png[33:])
    lines += [f"{CANARY}.jpg,0,{CANARY}", f"{CANARY}.png,1,{CANARY}"]
    lines = [line + "," * (4 - line.count(",")) for line in lines]
    (source / "labels.csv").write_text("\n".join(lines))
    capfd.readouterr()
    caplog.clear()
    folder = prepare(source, None, "x", workers=2)
    _, dataset = read_dataset("x")
    print(summary(dataset))
    assert dataset["counts"]["accepted"] == 14 and dataset["counts"]["rejected"] == 2
    printed = "".join(capfd.readouterr()) + caplog.text
    assert "14 accepted" in printed and not haystack_has_canary(printed.encode())
    for path in [paths.prepared(), *paths.prepared().rglob("*")]:
        assert not haystack_has_canary(str(path.relative_to(home)).encode())
        assert path.is_dir() or not haystack_has_canary(path.read_bytes()), path
    assert haystack_has_canary((source / CANARY / f"{CANARY}-0.dcm").read_bytes())  # the search itself works
    assert paths.pseudonym_key().read_bytes().strip() not in b"".join(
        path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )
