import csv
import itertools
import tarfile
import warnings
from datetime import date

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from sources import ENCODINGS, encode, lut, radiograph, save, stored_values

from pneumo_nb.prepare import dicom, images

BITS = (8, 10, 12, 15, 16)
RESCALES = (None, (2, -100), (0.5, 10.5), (-1, 4095))


def expected(values, bits, signed, inverse, rescale, window, function, white=255):
    """PS3.3 C.11 written out for a picture, without tables."""
    slope, intercept = rescale or (1, 0)
    x = values * slope + intercept
    if window is None:
        low = -(2 ** (bits - 1)) if signed else 0
        ends = low * slope + intercept, (low + 2**bits - 1) * slope + intercept
        grey = (x - min(ends)) / (max(ends) - min(ends))
    elif function == "SIGMOID":
        grey = 1 / (1 + np.exp(-4 * (x - window[0]) / window[1]))
    elif function == "LINEAR_EXACT":
        grey = (x - window[0]) / window[1] + 0.5
    else:
        grey = (x - (window[0] - 0.5)) / (window[1] - 1) + 0.5
    levels = np.floor(np.clip(grey, 0, 1) * white + 0.5)
    return white - levels if inverse else levels


@pytest.mark.parametrize("bits,signed", list(itertools.product(BITS, (False, True))))
def test_pixels_are_rendered_as_the_standard_says(tmp_path, bits, signed):
    values = stored_values(bits, signed)
    polarities = itertools.product(("MONOCHROME1", "MONOCHROME2"), (None, "IDENTITY", "INVERSE"))
    for (photometric, shape), rescale in itertools.product(polarities, RESCALES):
        for function in (None, "LINEAR", "LINEAR_EXACT", "SIGMOID"):
            header = radiograph(values, bits, signed, PhotometricInterpretation=photometric)
            slope, intercept = rescale or (1, 0)
            middle = (2**bits * (0.4 if not signed else -0.1)) * slope + intercept
            window = (round(middle, 2), round(2**bits * 0.5 * abs(slope))) if function else None
            if rescale:
                header.RescaleSlope, header.RescaleIntercept = rescale
            if window:
                header.WindowCenter, header.WindowWidth = window
                header.VOILUTFunction = function
            if shape:
                header.PresentationLUTShape = shape
            image, facts = dicom.read(save(header, tmp_path / "a.dcm"))
            inverse = shape == "INVERSE" if shape else photometric == "MONOCHROME1"
            wanted = expected(values, bits, signed, inverse, rescale, window, function)
            assert image.dtype == np.uint8
            assert np.abs(image - wanted).max() == 0, (photometric, shape, rescale, function)
            assert facts["rendering"] == ("window" if window else "range")


def test_sixteen_bits_keep_every_grey_level(tmp_path):
    values = np.arange(4096).reshape(64, 64)
    image, _ = dicom.read(save(radiograph(values), tmp_path / "a.dcm"), bits=16)
    assert image.dtype == np.uint16
    assert np.array_equal(image, np.floor(values / 4095 * 65535 + 0.5))


def test_the_window_can_be_left_out_and_the_first_of_several_is_used(tmp_path):
    values = stored_values()
    header = radiograph(values, WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    path = save(header, tmp_path / "a.dcm")
    assert np.array_equal(dicom.read(path)[0], expected(values, 12, False, False, None, (1000, 500), "LINEAR"))
    assert np.array_equal(dicom.read(path, voi=False)[0], expected(values, 12, False, False, None, None, None))


@pytest.mark.parametrize("window", [(100, 0), (100, -5), (100, 0.5), ("", ""), (100, None)])
def test_a_window_that_is_none_is_ignored(tmp_path, window):
    values = stored_values()
    header = radiograph(values, WindowCenter=window[0])
    if window[1] is not None:
        header.WindowWidth = window[1]
    assert np.array_equal(dicom.read(save(header, tmp_path / "a.dcm"))[0], expected(values, 12, 0, 0, None, None, None))


def test_a_voi_lut_goes_before_a_window(tmp_path):
    values, entries = stored_values(), np.linspace(0, 1, 4096) ** 2 * 4095 // 1
    header = radiograph(values, WindowCenter=10, WindowWidth=10, VOILUTSequence=lut(entries, 12))
    image, facts = dicom.read(save(header, tmp_path / "a.dcm"))
    assert np.array_equal(image, np.floor(entries[values] / 4095 * 255 + 0.5))
    assert facts["rendering"] == "VOI LUT"


def test_a_modality_lut_goes_before_the_window(tmp_path):
    values, entries = stored_values(10), np.arange(1024)[::-1] * 3
    header = radiograph(values, 10, WindowCenter=1500, WindowWidth=2000, ModalityLUTSequence=lut(entries, 16))
    header.ModalityLUTSequence[0].ModalityLUTType = "US"
    image, _ = dicom.read(save(header, tmp_path / "a.dcm"))
    assert np.array_equal(image, expected(entries[values], 16, False, False, None, (1500, 2000), "LINEAR"))


def test_bits_beside_the_stored_ones_do_not_show(tmp_path):
    values = stored_values()
    plain, _ = dicom.read(save(radiograph(values), tmp_path / "a.dcm"))
    overlay, _ = dicom.read(save(radiograph(values | 0x5000, BitsStored=12), tmp_path / "b.dcm"))
    high, _ = dicom.read(save(radiograph(values << 4 | 5, HighBit=15), tmp_path / "c.dcm"))
    assert np.array_equal(plain, overlay) and np.array_equal(plain, high)


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_lossless_encodings_of_one_picture_give_one_picture(tmp_path, syntax):
    header = radiograph(stored_values())
    plain, _ = dicom.read(save(header, tmp_path / "a.dcm"))
    encode(header, syntax)
    image, facts = dicom.read(save(header, tmp_path / "b.dcm"))
    assert np.array_equal(image, plain)
    assert facts["transfer_syntax"] == syntax.name


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_facts_are_numbers_and_words_from_closed_lists(tmp_path):
    header = radiograph(stored_values(), ViewPosition="Miller", BodyPartExamined="", ImagerPixelSpacing=[0.15, 0.15])
    header.AcquisitionDate, header.StudyDate = "20190230", "20190301"  # the first is no day
    _, facts = dicom.read(save(header, tmp_path / "a.dcm"))
    assert facts == {
        "photometric": "MONOCHROME2",
        "bits": 12,
        "width": 90,
        "height": 70,
        "spacing_mm": 0.15,
        "view": "",
        "body_part": "guessed",
        "laterality": "",
        "transfer_syntax": "Explicit VR Little Endian",
        "rendering": "range",
        "grey_range": "declared",
        "faulty": "",
        "contradiction": "",
        "identifiers": {"patient_id": "PAT-1", "sop_instance_uid": "1.2.3", "acquired": date(2019, 3, 1)},
    }


@pytest.mark.parametrize(
    "pair,spacing", [([0, 0], None), ([0.2, 0.3], None), ([0.14349, 0.14349], 0.1435), ([9, 9], None)]
)
def test_spacing_is_kept_only_if_it_makes_sense(tmp_path, pair, spacing):
    header = radiograph(stored_values(), PixelSpacing=pair)
    assert dicom.read(save(header, tmp_path / "a.dcm"))[1]["spacing_mm"] == spacing


WIDER_THAN_USED = {
    "14 bits": (lambda v: radiograph(v, 14)),
    "16 bits": (lambda v: radiograph(v, 16)),
    "signed from 0": (lambda v: radiograph(v, 16, True)),
    "signed": (lambda v: radiograph(v - 2048, 16, True)),
    "rescaled": (lambda v: radiograph(v, 16, RescaleSlope=0.25, RescaleIntercept=-100)),
    "MONOCHROME1": (lambda v: radiograph(4095 - v, 16, PhotometricInterpretation="MONOCHROME1")),
    "padded": (lambda v: radiograph(padded(v, 65535), 16, PixelPaddingValue=65535)),
    "window": (lambda v: radiograph(v, 14, WindowCenter=32768, WindowWidth=65535)),
    "sigmoid": (lambda v: radiograph(v, 12, WindowCenter=8192, WindowWidth=16384, VOILUTFunction="SIGMOID")),
    "VOI LUT": (lambda v: radiograph(v, 12, VOILUTSequence=lut(np.arange(4096), 16))),
    "VOI LUT of too few bits": (lambda v: radiograph(v, 12, VOILUTSequence=lut(np.arange(4096), 8))),
    "modality LUT": (lambda v: radiograph(v, 12, ModalityLUTSequence=lut(np.arange(4096), 16))),
    "JPEG 2000": (lambda v: stored_as_16(encode(radiograph(v), JPEG2000Lossless))),
}
NEARLY_FLAT = {
    "offset": (lambda v: radiograph(v + 30000, 16)),
    "dead pixel": (lambda v: radiograph(np.where(np.arange(v.size).reshape(v.shape) == 77, 65535, v), 16)),
    "border": (lambda v: radiograph(padded(v, 65535), 16)),
    "signed border": (lambda v: radiograph(padded(v, -32768), 16, True)),
    "VOI LUT": (lambda v: radiograph(v, 16, VOILUTSequence=lut(np.arange(65536), 16))),
}


def padded(values: np.ndarray, value: int) -> np.ndarray:
    return np.vstack([np.full_like(values[:5], value), values[5:]])


def stored_as_16(header):
    header.BitsStored, header.HighBit = 16, 15
    return header


def part_of_12_bits() -> np.ndarray:
    return np.linspace(300, 3900, 6300).astype(int).reshape(70, 90)


@pytest.mark.parametrize("kind", WIDER_THAN_USED)
def test_what_is_declared_beyond_what_is_used_costs_no_grey_level(tmp_path, kind):
    values = part_of_12_bits()
    right = dicom.read(save(radiograph(values), tmp_path / "a.dcm"))[0]
    header = WIDER_THAN_USED[kind](values)
    if "ModalityLUTSequence" in header:
        header.ModalityLUTSequence[0].ModalityLUTType = "US"
    image, facts = dicom.read(save(header, tmp_path / "b.dcm"))
    assert np.array_equal(image[5:], right[5:]) and facts["grey_range"] == "used"


@given(used=st.integers(8, 15), declared=st.integers(9, 16), signed=st.booleans(), out=st.sampled_from([8, 16]))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_how_many_bits_are_declared_makes_no_picture_another(tmp_path, used, declared, signed, out):
    values, declared = stored_values(used, signed), max(used, declared)
    right = dicom.read(save(radiograph(values, used, signed), tmp_path / "a.dcm"), bits=out)
    wide = dicom.read(save(radiograph(values, declared, signed), tmp_path / "b.dcm"), bits=out)
    assert np.array_equal(right[0], wide[0])
    assert wide[1]["grey_range"] == ("used" if declared > used else "declared")


@pytest.mark.parametrize("kind", NEARLY_FLAT)
def test_a_radiograph_nearly_flat_by_its_header_is_spread_and_pointed_at(tmp_path, kind):
    image, facts = dicom.read(save(NEARLY_FLAT[kind](part_of_12_bits()), tmp_path / "a.dcm"))
    assert facts["grey_range"] == "unknown" and len(np.unique(image)) > 150
    assert (np.diff(image.ravel()[500:].astype(int)) >= 0).all()  # the greys keep their order


def test_a_window_beside_most_values_is_kept_and_pointed_at(tmp_path):
    header = radiograph(stored_values(), WindowCenter=128, WindowWidth=256)
    image, facts = dicom.read(save(header, tmp_path / "a.dcm"))
    assert facts["grey_range"] == "unknown" and facts["rendering"] == "window"
    assert np.array_equal(image, expected(stored_values(), 12, False, False, None, (128, 256), "LINEAR"))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planes", [0, 1])
def test_colours_that_are_equal_are_grey_and_others_are_not(tmp_path, photometric, planes):
    values = stored_values(8)
    header = radiograph(values, 8, SamplesPerPixel=3, PhotometricInterpretation=photometric, PlanarConfiguration=planes)
    other = np.full_like(values, 128) if photometric == "YBR_FULL" else values
    for last, grey in ((other, True), (other ^ 64, False)):
        pixels = np.stack([values, other, last], 0 if planes else -1)
        header.PixelData = pixels.astype(np.uint8).tobytes()
        path = save(header, tmp_path / "a.dcm")
        if grey:
            assert np.array_equal(dicom.read(path)[0], values)
        else:
            with pytest.raises(dicom.Rejected, match="PixelData is a colour picture"):
                dicom.read(path)


def code(value, scheme, meaning="", **modifiers):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for keyword, modifier in modifiers.items():
        setattr(item, keyword, code(*modifier))
    return [item]


RT_PA, CT_PA, CT_AP = ("R-10214", "SRT"), ("272479007", "SCT"), ("399348003", "SCT")
VIEWS = [
    (RT_PA, "PA"),
    (("R-10206", "SNM3"), "AP"),
    (CT_PA, "PA"),
    (CT_AP, "AP"),
    (("399033003", "SCT"), ""),  # frontal
    (("X1", "99LOCAL", "Thorax pa"), "PA"),
    (("X2", "99LOCAL", "Miller"), ""),
    (("R-10236", "SRT"), "ViewCodeSequence is left lateral"),
    (("399067008", "SCT"), "ViewCodeSequence is lateral"),
    (("399198007", "SCT"), "ViewCodeSequence is right lateral"),
    (("R-10208", "SRT"), "ViewCodeSequence is antero-posterior oblique"),
    (("399162004", "SCT"), "ViewCodeSequence is cranio-caudal"),
    (("X3", "99LOCAL", "Miller lateral"), "ViewCodeSequence is LATERAL"),
    (("X4", "99LOCAL", "Thorax LL"), "ViewCodeSequence is LL"),
]
PARTS = [
    (("816094009", "SCT"), "CHEST"),
    (("51185008", "SCT"), "CHEST"),
    (("T-D3000", "SRT"), "CHEST"),
    (("T-28000", "SRT"), "CHEST"),  # lung
    (("X1", "99LOCAL", "Brustkorb"), "guessed"),
    (("T-D8700", "SRT"), "AnatomicRegionSequence is Hand"),
    (("818983003", "SCT"), "AnatomicRegionSequence is abdomen"),
    (("818981001", "SCT"), "AnatomicRegionSequence is Abdomen"),
    (("T-D4000", "SRT"), "AnatomicRegionSequence is abdomen"),
    (("122495006", "SCT"), "AnatomicRegionSequence is Thoracic spine"),
    (("113262008", "SCT"), "AnatomicRegionSequence is Thoracic aorta"),
    (("416775004", "SCT"), "AnatomicRegionSequence is Chest, Abdomen and Pelvis"),
    (("X2", "99LOCAL", "Miller knee"), "AnatomicRegionSequence is KNEE"),
]


@pytest.mark.parametrize("coded,known", VIEWS + PARTS)
def test_coded_views_and_parts_are_known_or_the_reason(tmp_path, coded, known):
    keyword, fact = ("ViewCodeSequence", "view") if (coded, known) in VIEWS else ("AnatomicRegionSequence", "body_part")
    left_out = {"ViewPosition": None} if fact == "view" else {"BodyPartExamined": ""}
    path = save(radiograph(stored_values(), **left_out, **{keyword: code(*coded)}), tmp_path / "a.dcm")
    if " is " not in known:
        assert dicom.read(path)[1][fact] == known
    else:
        with pytest.raises(dicom.Rejected, match=known) as caught:
            dicom.read(path)
        assert "miller" not in str(caught.value).lower()


def test_modifiers_of_codes_are_read(tmp_path):
    oblique = code(*CT_AP, ViewModifierCodeSequence=("R-102C1", "SRT"))
    with pytest.raises(dicom.Rejected, match="ViewModifierCodeSequence names OBLIQUE"):
        dicom.read(save(radiograph(stored_values(), ViewCodeSequence=oblique), tmp_path / "a.dcm"))
    for modifier, side in ((("G-A100", "SRT"), "R"), (("7771000", "SCT"), "L"), (("51440002", "SCT"), "B")):
        region = code("816094009", "SCT", AnatomicRegionModifierSequence=modifier)
        header = radiograph(stored_values(), AnatomicRegionSequence=region)
        assert dicom.read(save(header, tmp_path / "a.dcm"))[1]["laterality"] == side


def test_elements_that_contradict_each_other_are_pointed_at_and_one_can_be_chosen(tmp_path):
    values = stored_values()
    for photometric, shape in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        header = radiograph(values, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
        path = save(header, tmp_path / "a.dcm")
        (by_shape, facts), (by_photometric, _) = dicom.read(path), dicom.read(path, polarity="photometric")
        assert facts["contradiction"] == "PhotometricInterpretation PresentationLUTShape"
        assert np.array_equal(by_shape, 255 - by_photometric)
        assert (by_shape[0, 0] == 255) == (shape == "INVERSE")  # the least value
    view = dicom.read(save(radiograph(values, ViewCodeSequence=code(*CT_AP)), tmp_path / "a.dcm"))[1]
    assert view["view"] == "PA" and view["contradiction"] == "ViewCodeSequence ViewPosition"
    hand = radiograph(values, BodyPartExamined=None, ImageLaterality="L")
    assert dicom.read(save(hand, tmp_path / "a.dcm"))[1]["contradiction"] == "ImageLaterality BodyPartExamined"


FAULTY = [
    ("ImagerPixelSpacing", "DS", b"0,143\\0,143 "),
    ("PixelSpacing", "DS", b"0.143,0.143 "),
    ("PixelSpacing", "DS", b"NaN\\NaN "),
    ("NumberOfFrames", "IS", b"one "),
    ("WindowCenter", "DS", b"2048,0"),
    ("WindowWidth", "DS", b"Miller"),
    ("RescaleSlope", "DS", b"1,0 "),
    ("RescaleSlope", "DS", b"0 "),
    ("RescaleSlope", "DS", b"1e308 "),
    ("PixelPaddingValue", "LO", b"Miller"),
    ("VOILUTSequence", "SQ", lut(np.arange(0), 12)),
    ("ModalityLUTSequence", "SQ", [Dataset()]),
    ("ViewCodeSequence", "LO", b"Miller"),
    ("AnatomicRegionSequence", "US", b"\x07\0"),
]


@pytest.mark.filterwarnings("ignore:Invalid value for VR IS")
@pytest.mark.parametrize("keyword,vr,value", FAULTY)
def test_a_faulty_element_costs_itself_and_is_named(tmp_path, keyword, vr, value):
    plain, facts = dicom.read(save(radiograph(stored_values()), tmp_path / "a.dcm"))
    header = radiograph(stored_values())
    if keyword.startswith("Window"):
        header.WindowCenter, header.WindowWidth = 2048, 4096
    tag = Tag(keyword)
    if vr == "SQ":
        setattr(header, keyword, value)
    else:
        header[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    image, found = dicom.read(save(header, tmp_path / "b.dcm"))
    assert np.array_equal(image, plain) and found == facts | {"faulty": keyword}


def test_a_spacing_of_another_kind_of_text_is_still_read(tmp_path):
    for value in (b"0.143\\0.143 ", b"0.143\\0.143\\ "):
        header = radiograph(stored_values())
        header[Tag("PixelSpacing")] = RawDataElement(Tag("PixelSpacing"), "UT", len(value), value, 0, False, True)
        _, facts = dicom.read(save(header, tmp_path / "a.dcm"))
        assert facts["spacing_mm"] == 0.143 and facts["faulty"] == ""


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("meta", ["no syntax", "none", "wrong"])
@pytest.mark.parametrize("preamble", [False, True])
def test_headers_that_were_stripped_are_read_as_pydicom_can_tell(tmp_path, implicit, meta, preamble):
    header = radiograph(stored_values())
    plain, _ = dicom.read(save(header, tmp_path / "a.dcm"))
    beside, body = header.file_meta, DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = True, implicit
    write_dataset(body, header)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    if meta == "no syntax":
        del beside.TransferSyntaxUID
    else:
        beside.TransferSyntaxUID = ExplicitVRLittleEndian if implicit else ImplicitVRLittleEndian
    if meta != "none":
        write_file_meta_info(file, beside, enforce_standard=False)
    content = (bytes(128) + b"DICM" if preamble else b"") + file.getvalue() + body.getvalue()
    if meta == "wrong" and not implicit:
        return  # pydicom goes by its word
    (tmp_path / "b.dcm").write_bytes(content)
    kind, loaded = images.load(tmp_path / "b.dcm")
    image, found = dicom.read(loaded)
    assert kind == "dicom" and np.array_equal(image, plain)
    assert ("TransferSyntaxUID" in found["faulty"]) == (meta != "wrong")


def test_what_is_missing_is_called_missing(tmp_path):
    header = radiograph(stored_values(), SOPClassUID=None)
    assert dicom.read(save_loosely(header, tmp_path / "a.dcm"))[1]["view"] == "PA"  # the file's meta information has it
    del header.file_meta.MediaStorageSOPClassUID
    with pytest.raises(dicom.Rejected, match="SOPClassUID is missing"):
        dicom.read(save_loosely(header, tmp_path / "a.dcm"))
    header = encode(radiograph(stored_values()), JPEG2000Lossless)
    content = save(header, tmp_path / "a.dcm").read_bytes()
    element = b"\x02\0\x10\0UI\x16\0" + JPEG2000Lossless.encode().ljust(22, b"\0")
    assert element in content
    with pytest.raises(dicom.Rejected, match="TransferSyntaxUID is missing and PixelData is compressed"):
        dicom.read(content.replace(element, b"\x02\0\x13\0SH\x16\0" + b"A".ljust(22)))


def save_loosely(header, path):
    header.save_as(path, enforce_file_format=False)
    return path


REFUSED = [
    ({"Modality": "CT"}, "Modality is CT"),
    ({"Modality": "MILLER"}, "Modality is not a known one"),
    ({"Modality": None}, "Modality is missing"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "SOPClassUID is CT Image Storage"),
    ({"SOPClassUID": "1.2.3.4.5"}, "SOPClassUID is not a known one"),
    ({"NumberOfFrames": 3}, "NumberOfFrames is 3"),
    ({"PhotometricInterpretation": "RGB"}, "SamplesPerPixel is 1 and PhotometricInterpretation is RGB"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "PhotometricInterpretation is PALETTE COLOR"),
    ({"PhotometricInterpretation": None}, "PhotometricInterpretation is missing"),
    ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3"),
    ({"PatientSpeciesDescription": "Canis lupus"}, "animal: PatientSpeciesDescription"),
    ({"PatientBreedDescription": "Dachshund"}, "animal: PatientBreedDescription"),
    ({"AcquisitionDeviceProcessingDescription": "CANINE THORAX"}, "ProcessingDescription names CANINE"),
    ({"BodyPartExamined": "RIBCAGE"}, "BodyPartExamined is RIBCAGE"),
    ({"BodyPartExamined": "THORAX DX"}, "BodyPartExamined is not a known one"),
    ({"BodyPartExamined": "", "StudyDescription": "Left hand"}, "StudyDescription names HAND"),
    ({"ViewPosition": "LL"}, "ViewPosition is LL"),
    ({"ViewPosition": "", "SeriesDescription": "Chest lateral"}, "lateral view: SeriesDescription names"),
    ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "lateral view: PatientOrientation"),
    ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
    ({"PixelData": None}, "PixelData is missing"),
    ({"BitsAllocated": 32}, "BitsAllocated 32"),
    ({"Rows": 63}, "Columns x Rows is 90 x 63 pixels"),
    ({"Rows": 9000, "Columns": 9000}, "more than 40,000,000"),
    ({"Rows": None}, "Rows is missing"),
    ({"BitsStored": None}, "BitsStored is missing"),
    ({"PixelRepresentation": None}, "PixelRepresentation is missing"),
    ({"WindowCenter": 9999, "WindowWidth": 2}, "one grey value by WindowCenter and WindowWidth"),
    ({"PixelData": bytes(90 * 70 * 2)}, "one grey value by PixelData"),
    ({"PixelData": b"Miller"}, "PixelData has 6 bytes and its pixels need 12,600"),
]


@pytest.mark.parametrize("change,reason", REFUSED)
def test_other_objects_are_rejected_with_the_reason_and_no_text_of_theirs(tmp_path, change, reason):
    path = save(radiograph(stored_values(), PatientName="Miller^Ada", **change), tmp_path / "a.dcm")
    with pytest.raises(dicom.Rejected, match=reason) as caught:
        dicom.read(path)
    assert "\n" not in str(caught.value) and "miller" not in str(caught.value).lower()
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # a traceback shows no more


def test_a_study_of_two_views_does_not_make_its_frontal_one_lateral(tmp_path):
    header = radiograph(stored_values(), ViewPosition="", StudyDescription="CHEST PA AND LATERAL")
    assert dicom.read(save(header, tmp_path / "a.dcm"))[1]["view"] == ""


def test_a_transfer_syntax_that_cannot_be_decoded_is_named(tmp_path):
    header = radiograph(stored_values())
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.51"  # JPEG Extended, 12 bits
    header.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    header["PixelData"].is_undefined_length = True
    with pytest.raises(dicom.Rejected, match=r"no decoder of JPEG Extended .* at 12 bits has a permissive licence"):
        dicom.read(save(header, tmp_path / "a.dcm"))
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(dicom.Rejected, match="PixelData cannot be decoded: TransferSyntaxUID is MPEG2 Main Profile"):
        dicom.read(save(header, tmp_path / "a.dcm"))


def test_a_file_cut_short_is_said_to_be(tmp_path):
    header = radiograph(stored_values())
    encode(header, JPEG2000Lossless)
    content = save(header, tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[:-900])
    with pytest.raises(dicom.Rejected, match="cut short"):
        dicom.read(tmp_path / "b.dcm")


def test_libraries_print_no_header_values(tmp_path, capfd, caplog):
    header = radiograph(stored_values())
    header.StudyDescription, header.WindowCenter, header.StudyInstanceUID = "654321", "654321", "654321"
    path = save(header, tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"654321", b"MILLER"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert dicom.read(path)[1]["faulty"] == "WindowCenter"
    assert "MILLER" not in "".join(capfd.readouterr()) + caplog.text + "".join(str(w.message) for w in caught)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_file_is_read_or_rejected_and_nothing_else(tmp_path, data):
    path = tmp_path / "whole.dcm"
    if not path.exists():
        header = radiograph(
            stored_values(), WindowCenter=2000, WindowWidth=3000, VOILUTSequence=lut(np.arange(4096), 12)
        )
        encode(header, JPEG2000Lossless)
        save(header, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, 900))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image, _ = dicom.read(damaged)
    except dicom.Rejected:
        return
    assert image.ndim == 2 and image.dtype == np.uint8


def test_a_rust_panic_is_a_reason(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(*_, **__):
        raise PanicException("Miller")

    monkeypatch.setattr("pydicom.pixels.pixel_array", panic)
    with pytest.raises(dicom.Rejected, match=r"cannot be decoded.*PanicException"):
        dicom.read(save(radiograph(stored_values()), tmp_path / "a.dcm"))


# What a header cannot tell: this file repeats the pixels of another one, and its header is that of a chest radiograph.
LOOKS_RIGHT = {"udacity_test6.dcm"}


def test_real_files_become_images_or_reasons(shared):
    folder = shared / "data" / "dicom-real"
    for row in csv.DictReader((folder / "manifest.csv").open()):
        path = folder / row["file"]
        if row["group"] == "chest" or path.name in LOOKS_RIGHT:
            image, facts = dicom.read(path)
            assert image.shape == (facts["height"], facts["width"])
            assert image.std() > 20, path.name
        else:
            with pytest.raises(dicom.Rejected):
                dicom.read(path)


def test_a_pair_that_differs_in_photometric_interpretation_is_exactly_inverse(shared, tmp_path):
    files = shared / "data" / "dicom-real" / "files"
    one, two = dicom.read(files / "siim_jpeg_baseline.dcm")[0], dicom.read(files / "txv_Fake_MONOCHROME1.dcm")[0]
    assert np.array_equal(255 - one, two)
    header = radiograph(stored_values(), WindowCenter=1900, WindowWidth=3001)
    one = dicom.read(save(header, tmp_path / "a.dcm"))[0]
    header.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(255 - one, dicom.read(save(header, tmp_path / "b.dcm"))[0])


@pytest.mark.parametrize("bits,signed", list(itertools.product(BITS, (False, True))))
def test_one_picture_stored_in_either_polarity_comes_out_the_same(tmp_path, bits, signed):
    values = stored_values(bits, signed)
    white = int(values.min()) + int(values.max())  # value v and white - v stand for inverse greys
    for window in (None, (values.mean() // 1 + 0.25, 2**bits * 0.7 // 1)):
        header, inverse = radiograph(values, bits, signed), radiograph(white - values, bits, signed)
        if window:
            header.WindowCenter, header.WindowWidth = window
            inverse.WindowCenter, inverse.WindowWidth = white + 1 - window[0], window[1]  # C.11.2.1.2 is off by a half
        picture = dicom.read(save(header, tmp_path / "a.dcm"))[0]
        assert np.array_equal(255 - picture, dicom.read(save(inverse, tmp_path / "b.dcm"))[0])
        inverse.PhotometricInterpretation = "MONOCHROME1"
        assert np.array_equal(picture, dicom.read(save(inverse, tmp_path / "b.dcm"))[0])


def test_no_malformed_file_becomes_an_image(shared, tmp_path):
    with tarfile.open(shared / "data" / "dicom-malformed.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 150
    for path in files:
        with pytest.raises(dicom.Rejected):
            dicom.read(path)
