import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sources import picture, radiograph, save, save_picture, stored_values

from pneumo_nb import processes
from pneumo_nb.prepare import manifest
from pneumo_nb.prepare.convert import LOADED, Job, Task, convert, equalise, refine
from pneumo_nb.prepare.sources import Row
from pneumo_nb.settings import PrepareSettings

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)


@given(arrays(np.uint8, SHAPES))
@budget(max_examples=200, deadline=None)
def test_equalise_at_8_bits_is_opencvs_and_four_lines_of_numpy(image):
    not_brighter = np.bincount(image.ravel(), minlength=256).cumsum()
    darkest = not_brighter[image.min()]
    table = np.rint((not_brighter - darkest).clip(0) * np.float32(255 / max(1, image.size - darkest)))
    wanted = table[image] if darkest < image.size else image
    assert np.array_equal(equalise(image), cv2.equalizeHist(image))
    assert np.abs(equalise(image) - wanted).max() <= 1  # OpenCV multiplies in single precision


@given(st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: arrays(dtype, SHAPES)))
@budget(max_examples=200, deadline=None)
def test_equalise_keeps_the_order_of_grey_levels_and_reaches_both_ends(image):
    out = equalise(image)
    assert out.dtype == image.dtype and out.shape == image.shape
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(out.ravel()[order].astype(int)) >= 0).all()
    if image.min() < image.max():
        assert (out.min(), out.max()) == (0, np.iinfo(image.dtype).max)
    else:
        assert np.array_equal(out, image)


def test_equalise_makes_equally_frequent_levels_equally_spaced():
    image = np.array([[7, 7, 9, 9], [300, 300, 65000, 65000]], np.uint16)
    assert np.unique(equalise(image)).tolist() == [0, 21845, 43690, 65535]


def test_refine_does_section_2_1_in_either_order():
    image = picture(shape=(288, 277 * 4))
    blocks = image.reshape(72, 4, 277, 4).mean((1, 3))
    out = refine(image, PrepareSettings(equalise="none"))
    assert out.shape == (72, 277) and np.abs(out - blocks).max() <= 0.5  # area: the mean of 4 x 4 pixels
    small = cv2.resize(image, (277, 72), interpolation=cv2.INTER_AREA)
    assert np.array_equal(refine(image, PrepareSettings(order="downsize_first")), cv2.equalizeHist(small))
    first = cv2.resize(cv2.equalizeHist(image), (277, 72), interpolation=cv2.INTER_AREA)
    assert np.array_equal(refine(image, PrepareSettings()), first)


def test_one_quarter_of_the_papers_radiographs_is_694_by_719():
    assert refine(np.zeros((2876, 2776), np.uint8), PrepareSettings()).shape == (719, 694)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("way", ["global", "clahe", "none"])
@pytest.mark.parametrize("interpolation", ["area", "linear", "cubic", "nearest"])
def test_all_choices_work_at_both_depths_and_odd_sizes(dtype, way, interpolation):
    settings = PrepareSettings(equalise=way, interpolation=interpolation, downsize=3)
    out = refine(picture(shape=(101, 67), dtype=dtype), settings)
    assert out.dtype == dtype and out.shape == (34, 22)


def job(tmp_path, **settings) -> Job:
    for inner in ("images", "masks"):
        (tmp_path / "out" / inner).mkdir(parents=True, exist_ok=True)
    return Job(tmp_path, tmp_path / "out", PrepareSettings(**settings), b"k" * 32)


def test_masks_shrink_with_the_image_and_small_opacities_survive(tmp_path):
    save_picture(tmp_path / "a.png", picture(shape=(80, 80)))
    mask = np.zeros((80, 80), np.uint8)
    mask[10:13, 10:13] = 255  # 9 pixels, in four prepared ones: 4, 2, 2 and 1 sixteenth
    mask[40:60, 40:60] = 255
    save_picture(tmp_path / "m.png", mask)
    row = Row("1", masks=dict.fromkeys(("lungs", "opacities"), tmp_path / "m.png"))
    outcome = convert(job(tmp_path), Task("a.png", "r-1", row))
    assert "reason" not in outcome
    lungs, opacities = (cv2.imread(str(tmp_path / f"out/masks/r-1_{n}.png"), 0) for n in ("lungs", "opacities"))
    assert lungs.shape == opacities.shape == (20, 20)
    assert np.count_nonzero(lungs) == 25 and np.count_nonzero(opacities) == 26 and set(np.unique(lungs)) == {0, 255}


def test_a_mask_of_another_size_rejects_its_file(tmp_path):
    save_picture(tmp_path / "a.png", picture())
    save_picture(tmp_path / "m.png", picture(shape=(20, 20)))
    outcome = convert(job(tmp_path), Task("a.png", "r-1", Row("1", masks={"lungs": tmp_path / "m.png"})))
    assert outcome == {"reason": "its mask has another size or is not grey"}


def test_a_lateral_view_in_the_csv_rejects_its_file(tmp_path):
    save_picture(tmp_path / "a.png", picture())
    assert "frontal" in convert(job(tmp_path), Task("a.png", "r-1", Row("1", view="LL")))["reason"]


def test_spacing_grows_by_what_the_picture_shrinks(tmp_path):
    save(radiograph(stored_values(shape=(80, 96)), ImagerPixelSpacing=[0.15, 0.15]), tmp_path / "a.dcm")
    outcome = convert(job(tmp_path), Task("a.dcm", "r-1", Row()))
    assert (outcome["spacing_mm"], outcome["width"], outcome["original_width"]) == (0.6, 24, 96)


@pytest.mark.parametrize(
    "name", ["ANONYMOUS", "Anonymized", "anon", "UNKNOWN", "n/a", "XXXX", "0000", "---", "Patient_ID"]
)
def test_a_placeholder_in_place_of_a_patient_is_known_as_one(tmp_path, name):
    save(radiograph(stored_values(), PatientID=name), tmp_path / "a.dcm")
    told = convert(job(tmp_path), Task("a.dcm", "r-1", Row()))
    assert told["patient_from"] == manifest.PLACEHOLDER
    assert convert(job(tmp_path), Task("a.dcm", "r-1", Row(patient="P7")))["patient_from"] == "the labels CSV"


@pytest.mark.parametrize("name", ["ANON0017", "0", "17", "Xu", "Nan Li", "patient-3", "TESTA^ADA"])
def test_a_name_or_number_of_its_own_is_no_placeholder(tmp_path, name):
    save(radiograph(stored_values(), PatientID=name), tmp_path / "a.dcm")
    assert convert(job(tmp_path), Task("a.dcm", "r-1", Row()))["patient_from"] == "DICOM PatientID"


def test_a_full_disk_is_an_error_and_not_a_rejected_file(tmp_path):
    save_picture(tmp_path / "a.png", picture())
    broken = Job(tmp_path, tmp_path / "nowhere", PrepareSettings(), b"k")
    with pytest.raises(OSError):
        convert(broken, Task("a.png", "r-1", Row()))


def bomb(path: Path, size: int) -> Path:
    """A small deflated DICOM file that swells to `size` bytes."""
    header = radiograph(stored_values())
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = save(header, path).read_bytes()
    end = content.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    press = zlib.compressobj(1, wbits=-15)
    swelling = b"".join(press.compress(bytes(10**7)) for _ in range(size // 10**7)) + press.flush()
    path.write_bytes(content[:end] + swelling)
    assert path.stat().st_size < size / 100
    return path


def test_a_bomb_is_rejected_before_it_fills_the_memory(tmp_path):
    bomb(tmp_path / "a.dcm", 200_000_000)
    convert_it, limits = partial(convert, job(tmp_path)), processes.Limits(memory=150_000_000)
    ((_, lost),) = processes.spread(convert_it, [Task("a.dcm", "r-1", Row())], 1, limits, LOADED)
    assert lost == processes.Lost("it took more than 0.15 GB of memory")


@pytest.mark.slow
def test_a_bomb_costs_itself_only(tmp_path):
    bomb(tmp_path / "a.dcm", 3_000_000_000)
    save_picture(tmp_path / "b.png", picture())
    tasks = [Task(file, file, Row()) for file in ("a.dcm", "b.png")]
    told = processes.spread(partial(convert, job(tmp_path)), tasks, 1, imports=LOADED)
    found = {task.file: outcome for task, outcome in told}
    assert found["a.dcm"] == processes.Lost("it took more than 1.5 GB of memory") and "sha256" in found["b.png"]
