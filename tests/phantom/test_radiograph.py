"""The phantom keeps its word: seeded, whole, lawful DICOM, lawful disease, and no way to cheat."""

import hashlib
import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_nb.phantom import files as phantom_files
from pneumo_nb.phantom import radiograph
from pneumo_nb.prepare import dicom

SMALL = {"width": 128, "height": 132}
MIDDLE = {"width": 330, "height": 341}
IDENTIFIERS = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientMotherBirthName",
    "PatientComments",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "DeviceSerialNumber",
    "ImageComments",
    "StudyDate",
]


@cache
def case(index: int, positive: bool = True, width: int = 330, height: int = 341, seed: int = 0) -> radiograph.Phantom:
    return radiograph.render(index, positive, width, height, seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return phantom_files.write(tmp_path_factory.mktemp("phantom") / "set", 9, 4, **SMALL, seed=5, workers=2)


def dense_is_white(one: radiograph.Phantom) -> np.ndarray:
    return one.pixels if one.photometric == "MONOCHROME2" else 4095 - one.pixels


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# A radiograph follows from (seed, index) and from nothing else


def test_the_same_seed_and_index_give_the_same_radiograph():
    once, twice = (radiograph.render(3, True, **MIDDLE, seed=1) for _ in range(2))
    assert np.array_equal(once.pixels, twice.pixels) and np.array_equal(once.opacities, twice.opacities)


def test_another_seed_and_another_index_give_another_radiograph():
    pixels = [case(3, seed=1).pixels, case(3, seed=2).pixels, case(4, seed=1).pixels]
    assert not any(np.array_equal(a, b) for a, b in ((pixels[0], pixels[1]), (pixels[0], pixels[2])))


def test_a_patient_with_and_without_the_disease_differs_most_where_the_opacities_are():
    ill, well = case(2, True), case(2, False)
    assert np.array_equal(ill.lungs, well.lungs) and ill.photometric == well.photometric
    change = np.abs(dense_is_white(ill).astype(float) - dense_is_white(well))
    assert change[ill.opacities].mean() > 3 * change[~ill.lungs].mean()


def test_random_state_of_the_caller_is_neither_used_nor_changed():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    radiograph.render(0, True, **SMALL)
    assert np.array_equal(before, np.random.get_state()[1])


# Sizes


@pytest.mark.parametrize(("width", "height"), [(128, 128), (301, 333), (400, 290), (694, 719)])
def test_any_sensible_size(width, height):
    one = case(1, True, width, height)
    assert one.pixels.shape == one.lungs.shape == one.opacities.shape == (height, width)
    assert one.pixels.dtype == np.uint16 and one.pixels.max() <= 4095
    assert len(np.unique(one.pixels)) > 500
    assert 0.1 < one.lungs.mean() < 0.6


def test_the_field_of_view_is_that_of_the_paper_whatever_the_size():
    for width, height in ((128, 132), (512, 530), (694, 719)):
        assert 0.96 * 416 < case(1, True, width, height).spacing_mm * width <= 416.1


def test_the_anatomy_does_not_depend_on_the_size():
    small, large = case(6, True, 256, 265), case(6, True, 694, 719)
    shrunk = cv2.resize(large.lungs.astype(np.float32), (256, 265), interpolation=cv2.INTER_AREA) > 0.5
    assert (small.lungs & shrunk).sum() > 0.95 * (small.lungs | shrunk).sum()
    assert np.array_equal(small.diameters_mm, large.diameters_mm)


# It shows a chest


def test_air_is_dark_lungs_are_dark_and_the_heart_is_bright():
    for index in range(4):
        one = case(index, False)
        picture, rows = dense_is_white(one).astype(float), np.flatnonzero(one.lungs.any(1))
        bottom = picture[min(rows[-1] + 15, 330) : rows[-1] + 40]
        assert picture[one.lungs].mean() < 0.75 * bottom[:, 100:230].mean()


def test_there_are_two_lungs_and_the_heart_lies_to_the_right_of_the_picture():
    for index in range(8):
        one = case(index, False)
        count, _, stats, _ = cv2.connectedComponentsWithStats(one.lungs.astype(np.uint8))
        assert (stats[1:count, cv2.CC_STAT_AREA] > 0.05 * one.lungs.sum()).sum() == 2
        rows, columns = np.flatnonzero(one.lungs.any(1)), np.flatnonzero(one.lungs.any(0))
        low, middle = rows[0] + int(0.62 * len(rows)), (columns[0] + columns[-1]) // 2
        beside = dense_is_white(one)[low : low + 20].mean(0)  # 35 to 65 mm from the middle, above the diaphragm
        near, far = int(35 / one.spacing_mm), int(65 / one.spacing_mm)
        assert beside[middle + near : middle + far].mean() > 1.1 * beside[middle - far : middle - near].mean()


# The disease


def test_only_positives_have_opacities_and_a_stage():
    for index in range(6):
        ill, well = case(index, True), case(index, False)
        assert well.stage == well.label == 0 and not well.opacities.any() and not len(well.diameters_mm)
        assert ill.label == 1 and ill.stage in (1, 2, 3) and ill.opacities.any()


def test_opacities_lie_within_the_lungs():
    assert not any((case(index).opacities & ~case(index).lungs).any() for index in range(8))


def test_opacities_are_denser_than_the_lung_around_them():
    for index in range(4):
        ill, well = case(index, True), case(index, False)
        added = dense_is_white(ill).astype(float) - dense_is_white(well)
        assert added[ill.opacities].mean() > added[ill.lungs & ~ill.opacities].mean() + 5


def test_sizes_of_opacities_are_those_of_their_letter():
    for index in range(30):
        ill = case(index, True, **SMALL)
        low, high = radiograph.LETTERS[ill.letter]
        large = ill.diameters_mm[ill.diameters_mm > 10]
        small = ill.diameters_mm[ill.diameters_mm <= 10]
        assert (low <= small).all() and (small <= high).all()
        assert (len(large) > 0) == (ill.stage == 3) and (large <= 50).all()


def test_masks_show_the_sizes_that_the_radiograph_says():
    for index in range(8):
        ill = case(index, True, 694, 719)
        if ill.stage == 1:
            _, _, stats, _ = cv2.connectedComponentsWithStats(ill.opacities.astype(np.uint8))
            widths = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1) * ill.spacing_mm
            assert np.median(widths) < ill.diameters_mm.max() + 2 * ill.spacing_mm


def test_upper_zones_come_first():
    shares = []
    for index in range(40):
        ill = case(index, True, **SMALL)
        upper, middle, lower = np.add(ill.profusion[:3], ill.profusion[3:])
        assert upper >= middle >= lower
        rows = np.flatnonzero(ill.lungs.any(1))
        half = (rows[0] + rows[-1]) // 2
        shares.append(
            ill.opacities[:half].sum() / ill.lungs[:half].sum() > ill.opacities[half:].sum() / ill.lungs[half:].sum()
        )
    assert np.mean(shares) > 0.7


def test_all_stages_and_letters_occur():
    cases = [case(index, True, **SMALL) for index in range(40)]
    assert {one.stage for one in cases} == {1, 2, 3} and {one.letter for one in cases} == {"p", "q", "r"}


@pytest.mark.parametrize(
    ("profusion", "large", "stage"),
    [
        ((0, 0, 0, 0, 0, 0), 0, 0),
        ((1, 0, 0, 0, 0, 0), 0, 0),
        ((1, 0, 0, 1, 0, 0), 0, 1),
        ((2, 2, 0, 2, 2, 0), 0, 1),
        ((2, 2, 1, 2, 2, 2), 0, 2),
        ((3, 3, 0, 3, 3, 0), 0, 2),
        ((1, 0, 0, 1, 0, 0), 1, 3),
    ],
)
def test_stage_rule(profusion, large, stage):
    assert radiograph.stage_of(profusion, large) == stage


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.integers(0, 5), st.integers(0, 2))
def test_more_disease_never_lowers_the_stage(profusion, zone, large):
    more = [value + (place == zone) for place, value in enumerate(profusion)]
    assert radiograph.stage_of(more, large) >= radiograph.stage_of(profusion, large)


# The labels


@given(st.integers(1, 300), st.data())
def test_labels_hold_exactly_the_positives(patients, data):
    positives = data.draw(st.integers(0, patients))
    found = radiograph.labels(patients, positives, seed=1)
    assert len(found) == patients and found.sum() == positives and set(found) <= {0, 1}


def test_order_of_the_labels_follows_from_the_seed():
    assert np.array_equal(radiograph.labels(706, 142, 0), radiograph.labels(706, 142, 0))
    assert not np.array_equal(radiograph.labels(706, 142, 0), radiograph.labels(706, 142, 1))


# The folder


def test_the_folder_is_the_same_whatever_the_number_of_workers(written, tmp_path):
    alone = phantom_files.write(tmp_path / "alone", 9, 4, **SMALL, seed=5, workers=1)
    assert contents(alone) == contents(written)


def test_the_table_accounts_for_every_file(written):
    lines = (written / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,label,patient_id,stage,lung_mask,opacity_mask"
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) == 9 and sum(row[1] == "1" for row in rows) == 4 and len({row[2] for row in rows}) == 9
    named = {file for row in rows for file in (row[0], row[4], row[5])} | {"labels.csv", "phantom.json"}
    assert named == set(contents(written))
    assert all((row[1] == "1") == (row[3] in "123") for row in rows)


def test_masks_are_8_bit_pictures_of_0_and_255_beside_each_radiograph(written):
    for row in (line.split(",") for line in (written / "labels.csv").read_text().splitlines()[1:]):
        lungs, opacities = (cv2.imread(str(written / mask), cv2.IMREAD_UNCHANGED) for mask in row[4:])
        assert lungs.shape == opacities.shape == (132, 128) and lungs.dtype == np.uint8
        assert set(np.unique(lungs)) == {0, 255} and (opacities > 0).any() == (row[1] == "1")


def test_a_finished_folder_is_left_alone_and_another_one_is_refused(written, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert phantom_files.write(written, 9, 4, **SMALL, seed=5) == written
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    with pytest.raises(ValueError, match=r"holds a phantom of another seed: .* new folder") as refusal:
        phantom_files.write(written, 9, 4, **SMALL, seed=6)
    assert "\n" not in str(refusal.value)
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="no finished phantom"):
        phantom_files.write(tmp_path / "photos", 9, 4, **SMALL)


def test_a_disturbed_writing_leaves_nothing_behind(tmp_path):
    def stop(done, patients):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom_files.write(tmp_path / "set", 4, 2, **SMALL, workers=1, progress=stop)
    assert not list(tmp_path.iterdir())


def test_progress_is_told_after_each_radiograph(tmp_path):
    told = []
    phantom_files.write(
        tmp_path / "set", 3, 1, **SMALL, workers=1, progress=lambda done, patients: told.append((done, patients))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert json.loads((tmp_path / "set" / "phantom.json").read_text())["patients"] == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"positives": 11}, "positives = 11"),
        ({"positives": -1}, "positives = -1"),
        ({"width": 20}, "20 x 132"),
        ({"width": 900}, "900 x 132"),
    ],
)
def test_nonsense_is_refused_in_one_line_before_anything_is_written(wrong, words, tmp_path):
    with pytest.raises(ValueError, match=words) as refusal:
        phantom_files.write(tmp_path / "set", **({"patients": 10, "positives": 3} | SMALL | wrong))
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


# The DICOM files


def test_files_are_digital_x_ray_images_that_read_back_as_they_were_rendered(written):
    truth = radiograph.labels(9, 4, 5)
    rows = [line.split(",") for line in (written / "labels.csv").read_text().splitlines()[1:]]
    headers = {row[2]: pydicom.dcmread(written / row[0]) for row in rows}
    rendered = [radiograph.render(index, bool(label), **SMALL, seed=5) for index, label in enumerate(truth)]
    pixels = {header.pixel_array.tobytes(): header for header in headers.values()}
    for one in rendered:
        header = pixels[one.pixels.tobytes()]
        assert header.PhotometricInterpretation == one.photometric
        assert header.ImagerPixelSpacing == header.PixelSpacing == pytest.approx([one.spacing_mm] * 2, abs=1e-5)
        assert (header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation) == (16, 12, 11, 0)
        assert header.PresentationLUTShape == {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[one.photometric]
        assert (header.Modality, header.ViewPosition, header.BurnedInAnnotation) == ("DX", "PA", "NO")


def test_type_1_attributes_of_the_dx_modules_have_values(written):
    required = [
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "PresentationIntentType",
        "ImageType",
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelIntensityRelationship",
        "PixelIntensityRelationshipSign",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "PresentationLUTShape",
        "LossyImageCompression",
        "BurnedInAnnotation",
        "ImagerPixelSpacing",
        "PatientOrientation",
        "WindowCenter",
        "WindowWidth",
        "ViewCodeSequence",
        "AnatomicRegionSequence",
        "ImageLaterality",
    ]
    for file in (written / "radiographs").iterdir():
        header = pydicom.dcmread(file)
        assert not [name for name in required if header.get(name) in (None, "", [])]
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert all(element.value.is_valid for element in header if element.VR == "UI")


def test_no_two_images_share_a_uid(written):
    headers = [pydicom.dcmread(file) for file in (written / "radiographs").iterdir()]
    assert (
        len({uid for one in headers for uid in (one.SOPInstanceUID, one.SeriesInstanceUID, one.StudyInstanceUID)}) == 27
    )


def test_about_a_third_is_monochrome1():
    kinds = [case(index, True, **SMALL).photometric for index in range(40)]
    assert 0.18 < kinds.count("MONOCHROME1") / 40 < 0.5


def test_every_file_is_read_with_lungs_darker_than_the_abdomen(written):
    for row in (line.split(",") for line in (written / "labels.csv").read_text().splitlines()[1:]):
        picture, facts = dicom.read(written / row[0])
        lungs = cv2.imread(str(written / row[4]), cv2.IMREAD_UNCHANGED) > 0
        assert facts["view"] == "PA" and facts["spacing_mm"] == pytest.approx(416 / 128, rel=0.04)
        assert picture[lungs].mean() < picture[105:120, 40:90].mean()


def test_sources_are_full_of_identifiers_for_others_to_remove(written):
    for file in (written / "radiographs").iterdir():
        header = pydicom.dcmread(file)
        assert not [name for name in IDENTIFIERS if not header.get(name)]
        assert header.PatientID in file.name and header.OtherPatientIDsSequence[0].PatientID
        assert any(element.tag.is_private and not element.tag.is_private_creator for element in header)


# A fair task


def shallow_auc(pictures: list[np.ndarray], truth: np.ndarray) -> float:
    """AUC of a logistic regression on the histogram (64 bins) and the mean, 5-fold, mean of 3 shuffles."""
    features = np.array([np.append(np.histogram(p, 64, (0, 256))[0] / p.size, p.mean()) for p in pictures])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = (StratifiedKFold(5, shuffle=True, random_state=state) for state in range(3))
    scores = (cross_val_predict(model, features, truth, cv=fold, method="decision_function") for fold in folds)
    return float(np.mean([roc_auc_score(truth, score) for score in scores]))


def as_prepared(one: radiograph.Phantom) -> tuple[np.ndarray, np.ndarray]:
    """8 bits by the window, and the same equalised, each a quarter of the size."""
    centre, width = one.window
    grey = np.clip((one.pixels - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    grey = np.uint8(255 * (1 - grey if one.photometric == "MONOCHROME1" else grey))
    size = (grey.shape[1] // 4, grey.shape[0] // 4)
    return tuple(cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (grey, cv2.equalizeHist(grey)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grey_levels_alone_do_not_give_the_label_away(seed):
    truth = radiograph.labels(120, 40, seed)
    pictures = [as_prepared(radiograph.render(index, bool(label), 256, 264, seed)) for index, label in enumerate(truth)]
    for kind in zip(*pictures, strict=True):
        assert shallow_auc(list(kind), truth) < 0.65
