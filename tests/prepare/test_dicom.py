import csv
import itertools
import tarfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from sources import ENCODINGS, encode, lut, radiograph, save, stored_values

from pneumo_nb.prepare import dicom

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
    _, facts = dicom.read(save(header, tmp_path / "a.dcm"))
    assert facts == {
        "photometric": "MONOCHROME2",
        "bits": 12,
        "width": 90,
        "height": 70,
        "spacing_mm": 0.15,
        "view": "",
        "body_part": "guessed",
        "modality": "CR",
        "transfer_syntax": "Explicit VR Little Endian",
        "rendering": "range",
    }


@pytest.mark.parametrize(
    "pair,spacing", [([0, 0], None), ([0.2, 0.3], None), ([0.14349, 0.14349], 0.1435), ([9, 9], None)]
)
def test_spacing_is_kept_only_if_it_makes_sense(tmp_path, pair, spacing):
    header = radiograph(stored_values(), PixelSpacing=pair)
    assert dicom.read(save(header, tmp_path / "a.dcm"))[1]["spacing_mm"] == spacing


REFUSED = [
    ({"Modality": "CT"}, "Modality is CT"),
    ({"Modality": "MILLER"}, "Modality is not a known one"),
    ({"Modality": None}, "Modality is missing"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "SOP class is CT Image Storage"),
    ({"SOPClassUID": "1.2.3.4.5"}, "SOP class is not a known one"),
    ({"NumberOfFrames": 3}, "3 frames"),
    ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is RGB"),
    ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3"),
    ({"PatientSpeciesDescription": "Canis lupus"}, "animal"),
    ({"PatientBreedDescription": "Dachshund"}, "animal"),
    ({"AcquisitionDeviceProcessingDescription": "CANINE THORAX"}, "animal"),
    ({"BodyPartExamined": "RIBCAGE"}, "BodyPartExamined is RIBCAGE"),
    ({"BodyPartExamined": "THORAX DX"}, "BodyPartExamined is not a known one"),
    ({"BodyPartExamined": "", "StudyDescription": "Left hand"}, "names HAND"),
    ({"ViewPosition": "LL"}, "ViewPosition is LL"),
    ({"ViewPosition": "", "SeriesDescription": "Chest lateral"}, "lateral view"),
    ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "lateral view"),
    ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
    ({"PixelData": None}, "no PixelData"),
    ({"BitsAllocated": 32}, "BitsAllocated 32"),
    ({"Rows": 63}, "90 x 63 pixels"),
    ({"Rows": 9000, "Columns": 9000}, "more than 40,000,000"),
    ({"Rows": None}, "breaks the DICOM standard"),
    ({"RescaleSlope": 0, "RescaleIntercept": 7}, "RescaleSlope"),
    ({"PixelData": bytes(90 * 70 * 2)}, "one grey value"),
    ({"PixelData": b"Miller"}, "pixels cannot be decoded: transfer syntax Explicit VR Little Endian"),
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
    with pytest.raises(dicom.Rejected, match="there is no decoder for transfer syntax MPEG2 Main Profile / Main Level"):
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
    with warnings.catch_warnings(record=True) as caught, pytest.raises(dicom.Rejected):
        warnings.simplefilter("always")
        dicom.read(path)
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
