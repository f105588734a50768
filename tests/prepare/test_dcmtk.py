"""`dicom.read` against DCMTK's renderer, before equalisation: at most 1 grey level apart, 2 for VOI LUTs.

Where DCMTK 3.6.7 itself departs from PS3.3 C.11, another way leads to the same picture or the formula decides:
- it takes LINEAR_EXACT for LINEAR, which differs by 1 level for wide windows and by many for narrow ones. Centre c and
  width w of the one are c + 0.5 and w + 1 of the other: it is given these;
- it rounds rescaled values to whole numbers, so a fractional slope on few bits costs it a level or more (26 for a slope
  of 0.1 on 8 bits), and an intercept that ends in .5 makes it read past its table: test_dicom has the formula.
"""

import itertools
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sources import lut, radiograph, save, stored_values

from pneumo_nb.prepare import dicom

TOOLS = ("dcmj2pnm", "dcml2pnm", "dcmconv", "dcmcrle", "dcmcjpeg", "dcmcjpls")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"DCMTK is not installed (no {', '.join(MISSING)})")

DEPTHS = tuple(itertools.product((8, 10, 12, 15, 16), (False, True)))
POLARITIES = tuple(itertools.product(("MONOCHROME1", "MONOCHROME2"), (None, "IDENTITY", "INVERSE")))
FUNCTIONS = (None, "", "LINEAR", "LINEAR_EXACT", "SIGMOID")


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def dcmtk(path: Path, *options: str) -> np.ndarray:
    """The picture of a DICOM file as DCMTK renders it, without overlays."""
    tool = (
        "dcml2pnm"
        if "JPEG-LS" in pydicom.dcmread(path, specific_tags=[]).file_meta.TransferSyntaxUID.name
        else TOOLS[0]
    )
    run(tool, "-O", "+op", *options, path, path.with_suffix(".pgm"))
    return cv2.imread(str(path.with_suffix(".pgm")), cv2.IMREAD_UNCHANGED)


def apart(header: Dataset, path: Path, *options: str) -> int:
    """The largest difference in grey levels between `dicom.read` and DCMTK."""
    ours = dicom.read(save(header, path))[0].astype(int)
    if header.get("VOILUTFunction") == "LINEAR_EXACT":
        header.VOILUTFunction = "LINEAR"
        header.WindowCenter, header.WindowWidth = float(header.WindowCenter) + 0.5, float(header.WindowWidth) + 1
    return np.abs(ours - dcmtk(save(header, path), *options)).max()


def vary(header: Dataset, polarity: tuple, rescale: tuple | None) -> tuple[float, float]:
    """Set polarity and rescale; returns the slope and intercept that hold now."""
    header.PhotometricInterpretation, shape = polarity
    if shape:
        header.PresentationLUTShape = shape
    if rescale:
        header.RescaleSlope, header.RescaleIntercept = rescale
    return rescale or (1, 0)


@pytest.mark.parametrize("one_in", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits,signed", DEPTHS)
def test_windows_rescales_and_polarities_agree(tmp_path, bits, signed, one_in):
    values = stored_values(bits, signed, (71, 93))
    rescales = (None, (2, -100), (-1, 4095), (3, 7)) + (((0.5, 10), (1.5, -3.25)) if bits >= 12 else ())
    cases = list(itertools.product(POLARITIES, rescales, FUNCTIONS))
    for polarity, rescale, function in cases[bits % one_in :: one_in]:
        header = radiograph(values, bits, signed)
        slope, intercept = vary(header, polarity, rescale)
        if function is not None:
            header.WindowCenter = round(float(np.median(values) * 0.9 * slope + intercept), 2)
            header.WindowWidth = round(2**bits * 0.5 * abs(slope))
        if function:
            header.VOILUTFunction = function
        window = [] if function is None else ["+Wi", "1"]
        assert apart(header, tmp_path / "a.dcm", *window) <= 1, (polarity, rescale, function)


@pytest.mark.parametrize("bits,signed", DEPTHS)
def test_voi_luts_agree(tmp_path, bits, signed):
    values = stored_values(bits, signed, (67, 101))
    for polarity, entry_bits in zip(POLARITIES, (8, 10, 12, 14, 16, 16), strict=True):
        for count in (2 ** min(bits, 15), 200):  # a table for all values, and one that ends before them
            entries = np.linspace(0, 1, count) ** 2 * (2**entry_bits - 1) // 1
            first = int(values.min()) + (0 if count > 200 else 17)
            header = radiograph(values, bits, signed, VOILUTSequence=lut(entries, entry_bits, first))
            header.WindowCenter, header.WindowWidth = 10, 10  # the table goes first
            vary(header, polarity, None)
            assert apart(header, tmp_path / "a.dcm", "+Wl", "1") <= 2, (polarity, entry_bits, count)


@pytest.mark.parametrize("bits,signed", DEPTHS)
def test_modality_luts_agree(tmp_path, bits, signed):
    values = stored_values(bits, signed, (67, 101))
    for polarity, entry_bits in zip(POLARITIES, (8, 10, 12, 16, 16, 16), strict=True):
        entries = np.linspace(1, 0, 2 ** min(bits, 15)) ** 3 * (2**entry_bits - 1) // 1
        header = radiograph(values, bits, signed, ModalityLUTSequence=lut(entries, entry_bits, int(values.min())))
        header.ModalityLUTSequence[0].ModalityLUTType = "US"
        vary(header, polarity, None)
        assert apart(header, tmp_path / "a.dcm") <= 1, (polarity, entry_bits)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_of_several_windows_the_first_is_used_and_padding_is_a_value_like_others(tmp_path, photometric):
    for bits, signed in DEPTHS:
        values = stored_values(bits, signed, (64, 127))
        values[:, :20] = values.min()
        header = radiograph(values, bits, signed, PhotometricInterpretation=photometric)
        header.PixelPaddingValue = int(values.min())
        assert apart(header, tmp_path / "a.dcm") <= 1
        header.WindowCenter, header.WindowWidth = [int(np.median(values)), 3], [2**bits // 2, 5]
        assert apart(header, tmp_path / "a.dcm", "+Wi", "1") <= 1


@given(
    depth=st.sampled_from(DEPTHS),
    polarity=st.sampled_from(POLARITIES),
    rescale=st.sampled_from([None, (1, -1024), (3, 7)]),
    function=st.sampled_from(FUNCTIONS[1:]),
    shape=st.tuples(st.integers(64, 90), st.integers(64, 90)),
    middle=st.floats(0, 1),
    share=st.floats(0.01, 2),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_on_any_odd_size_agrees(tmp_path, depth, polarity, rescale, function, shape, middle, share):
    bits, signed = depth
    values = stored_values(bits, signed, shape)
    header = radiograph(values, bits, signed)
    slope, intercept = vary(header, polarity, rescale)
    header.WindowCenter = round((int(values.min()) + middle * 2**bits) * slope + intercept)
    header.WindowWidth = max(2, round(share * 2**bits * slope))
    if function:
        header.VOILUTFunction = function
    try:
        assert apart(header, tmp_path / "a.dcm", "+Wi", "1") <= 1
    except dicom.Rejected as rejected:  # a window beside all values
        assert "one grey value" in str(rejected)


ENCODINGS = {
    "Explicit VR Big Endian": ["dcmconv", "+tb"],
    "Implicit VR Little Endian": ["dcmconv", "+ti"],
    "Deflated Explicit VR Little Endian": ["dcmconv", "+td"],
    "RLE Lossless": ["dcmcrle"],
    "JPEG Lossless, Non-Hierarchical, First-Order": ["dcmcjpeg", "+e1"],
    "JPEG Lossless, Non-Hierarchical (Process 14)": ["dcmcjpeg", "+el"],
    "JPEG-LS Lossless": ["dcmcjpls"],
}


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_what_dcmtk_encodes_without_loss_gives_the_same_picture(tmp_path, syntax):
    for bits, signed in DEPTHS:
        values = stored_values(bits, signed, (71, 93))
        path = save(radiograph(values, bits, signed), tmp_path / "plain.dcm")
        run(*ENCODINGS[syntax], path, tmp_path / "encoded.dcm")
        image, facts = dicom.read(tmp_path / "encoded.dcm")
        assert facts["transfer_syntax"].startswith(syntax)
        assert np.array_equal(image, dicom.read(path)[0]), (bits, signed)


def test_jpeg_baseline_is_decoded_as_dcmtk_does(tmp_path):
    smooth = cv2.GaussianBlur(stored_values(8, False, (120, 90)).astype(np.uint8), (0, 0), 4)
    header = radiograph(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), 8)
    run("dcmcjpeg", "+eb", save(header, tmp_path / "a.dcm"), tmp_path / "b.dcm")
    image, facts = dicom.read(tmp_path / "b.dcm")
    assert facts["transfer_syntax"] == "JPEG Baseline (Process 1)"
    assert np.abs(image.astype(int) - dcmtk(tmp_path / "b.dcm")).max() <= 1
    assert np.abs(image.astype(int) - dicom.read(tmp_path / "a.dcm")[0]).mean() < 3


def test_twelve_bit_jpeg_is_refused_for_want_of_a_free_decoder(tmp_path):
    path = save(radiograph(stored_values(12)), tmp_path / "a.dcm")
    run("dcmcjpeg", "+ee", path, tmp_path / "b.dcm")
    with pytest.raises(dicom.Rejected, match=r"no decoder of JPEG Extended .* at 12 bits has a permissive licence"):
        dicom.read(tmp_path / "b.dcm")


def test_real_chest_radiographs_agree(shared, tmp_path):
    files = [path for path in sorted((shared / "data" / "dicom-real" / "files").iterdir()) if accepted(path)]
    assert len(files) >= 7
    for path in files:
        header = pydicom.dcmread(path)
        copy = tmp_path / f"{path.stem}.dcm"
        if "JPEG 2000" in header.file_meta.TransferSyntaxUID.name:  # which DCMTK does not decode
            header.decompress()
        header.save_as(copy)
        window = ["+Wi", "1"] if "WindowCenter" in header else []
        assert np.abs(dicom.read(path)[0].astype(int) - dcmtk(copy, *window)).max() <= 1, path.name


def accepted(path: Path) -> bool:
    try:
        dicom.read(path)
    except dicom.Rejected:
        return False
    return True
