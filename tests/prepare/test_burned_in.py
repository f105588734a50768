"""The search for burned-in text; tests/benchmarks/bench_burned_in.py measures it on more, and on real radiographs."""

import cv2
import numpy as np
import pytest
import typed
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import picture

from pneumo_nb.phantom import files as phantom_files
from pneumo_nb.prepare import burned_in, dicom


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Phantoms as they are read from their files; they bear no text."""
    folder = phantom_files.write(tmp_path_factory.mktemp("source") / "phantom", 10, 4, 640, 662, seed=3, workers=1)
    return [dicom.read(path)[0] for path in sorted(folder.rglob("*.dcm"))]


def test_legible_text_is_found_and_clean_phantoms_are_left_alone(clean):
    chance, found, contrasts = np.random.default_rng(1), [], []
    for radiograph in clean:
        for height in (0.016, 0.02, 0.03, 0.05):
            written, box, contrast = typed.write(radiograph, typed.drawn(chance, height))
            found.append(typed.found(burned_in.find(written), box))
            contrasts.append(contrast)
    legible = np.array(contrasts) > 40
    assert legible.sum() > 30 and np.mean(np.array(found)[legible]) > 0.9
    assert sum(bool(burned_in.find(radiograph)) for radiograph in clean) <= 2


@pytest.mark.parametrize("kind", ["16 bits", "larger", "negative", "column by column", "running up", "running down"])
def test_it_does_not_matter_how_the_radiograph_is_stored(clean, kind):
    written, box, _ = typed.write(clean[0], typed.Typed("MOCKFORD^VERA", "DejaVuSans", 0.03, "white", (0.03, 0.03)))
    factor = 1
    if kind == "16 bits":
        written = written.astype(np.uint16) * 257
    if kind == "larger":
        factor, written = 4, cv2.resize(written, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    if kind in ("running up", "running down"):
        turns, (rows, columns) = (1, written.shape) if kind == "running up" else (3, written.shape)
        written = np.rot90(written, turns)
        left, top, right, bottom = box
        box = (top, columns - right, bottom, columns - left) if turns == 1 else (rows - bottom, left, rows - top, right)
        assert any(cut[1] < box[3] and cut[3] > box[1] and cut[0] < box[2] for cut in burned_in.find(written))
        return
    if kind == "negative":
        written = 255 - written
    if kind == "column by column":
        written = np.asfortranarray(written)
    assert typed.found(burned_in.find(written), [side * factor for side in box])


@pytest.mark.parametrize("kind", ["in 16 grey levels", "beside a white border", "at the top of 16 bits"])
def test_text_as_bright_as_the_radiograph_is_found_however_few_grey_levels_it_fills(clean, kind):
    for radiograph in clean[:4]:
        written, box, _ = typed.write(radiograph, typed.Typed("MOCKFORD^VERA", "DejaVuSans", 0.03, "white", (0.1, 0.1)))
        flat = written // 16
        if kind == "beside a white border":
            flat[-40:] = 255
        if kind == "at the top of 16 bits":
            flat = written.astype(np.uint16) * 16 + 61000
        assert typed.found(burned_in.find(flat), box)


@pytest.mark.parametrize("letter", ["L", "R"])
def test_a_lone_letter_of_the_side_is_no_suspected_text(clean, letter):
    what = typed.Typed(letter, "DejaVuSans-Bold", 0.05, "white", (0.9, 0.05))
    assert not typed.found(burned_in.find(typed.write(clean[1], what)[0]), typed.write(clean[1], what)[1])


@given(
    st.integers(0, 10_000),
    st.sampled_from([(64, 64), (64, 300), (301, 97), (64, 21001), (9001, 64)]),
    st.sampled_from(["u1", "u2"]),
)
@settings(max_examples=15)
def test_boxes_lie_within_any_picture_and_can_be_cut_out(seed, shape, kind):
    chance = np.random.default_rng(seed)
    image = (chance.random(shape) ** chance.integers(1, 30) * 255).astype(np.uint8)
    cv2.putText(image, "ABC 123", (5, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1)
    image = image.astype(kind) * (257 if kind == "u2" else 1)
    boxes = burned_in.find(image)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
    if boxes:
        cut = burned_in.crop(image, boxes)
        assert cut.dtype == image.dtype
        assert cut.size >= sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)


def test_noise_and_one_grey_level_are_no_text():
    assert burned_in.find(picture(shape=(400, 400))) == []
    assert burned_in.find(np.full((100, 100), 7, np.uint8)) == []


def test_names_and_initials_in_real_files_are_found_and_radiographs_without_are_not_suspected(shared):
    folder = shared / "data" / "dicom-real" / "files"
    radiograph, _ = dicom.read(folder / "pseudoPHI_0_compressed.dcm")
    boxes = burned_in.find(radiograph)
    assert any(right - left > 600 and top < 40 for left, top, right, _ in boxes)  # the name, above on the left
    (initials,) = burned_in.find(dicom.read(folder / "siim_jpeg_baseline.dcm")[0])  # on a side marker, upwards
    assert initials[0] > 850 and initials[3] < 110
    for name in ("CR-MONO1-10-chest", "RG1_J2KI", "udacity_test1"):
        assert burned_in.find(dicom.read(folder / f"{name}.dcm")[0]) == []
