"""The folder keeps its word: whole, the same for the same arguments, lawful DICOM, and a table that tells the truth."""

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from pneumo_nb.phantom import disease, radiograph
from pneumo_nb.phantom import files as phantom_files
from pneumo_nb.prepare import dicom

SMALL = {"width": 128, "height": 132}
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


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return phantom_files.write(tmp_path_factory.mktemp("phantom") / "set", 9, 4, **SMALL, seed=5, workers=2)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_folder_is_the_same_whatever_the_number_of_workers(written, tmp_path):
    alone = phantom_files.write(tmp_path / "alone", 9, 4, **SMALL, seed=5, workers=1)
    assert contents(alone) == contents(written)


def test_the_table_accounts_for_every_file(written):
    lines = (written / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(phantom_files.COLUMNS)
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) == 9 and sum(row[1] == "1" for row in rows) == 4 and len({row[2] for row in rows}) == 9
    named = {file for row in rows for file in (row[0], row[4], row[5])} | {"labels.csv", "phantom.json"}
    assert named == set(contents(written))
    assert all((row[1] == "1") == (row[3] in "123") for row in rows)


def test_masks_are_8_bit_pictures_of_0_and_255_beside_each_radiograph(written):
    for row in (line.split(",") for line in (written / "labels.csv").read_text().splitlines()[1:]):
        lungs, opacities = (cv2.imread(str(written / mask), cv2.IMREAD_UNCHANGED) for mask in row[4:6])
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
        ({"mix": "mild"}, "mix = 'mild'"),
        ({"width": 20}, "20 x 132"),
        ({"width": 900}, "900 x 132"),
    ],
)
def test_nonsense_is_refused_in_one_line_before_anything_is_written(wrong, words, tmp_path):
    with pytest.raises(ValueError, match=words) as refusal:
        phantom_files.write(tmp_path / "set", **({"patients": 10, "positives": 3} | SMALL | wrong))
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


def test_files_are_digital_x_ray_images_that_read_back_as_they_were_rendered(written):
    truth = disease.labels(9, 4, 5)
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


def test_the_table_tells_the_disease_that_was_drawn(written):
    with (written / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["patient_id"]: row for row in csv.DictReader(file)}
    truth = disease.labels(9, 4, 5)
    for (_, row), index in zip(
        sorted(rows.items()), np.argsort([(i * 7919) % 1_000_000 for i in range(9)]), strict=True
    ):
        one = radiograph.render(index, bool(truth[index]), **SMALL, seed=5)
        assert row["profusion"] == " ".join(map(str, one.disease.profusion)) and row["letter"] == one.disease.letter
        assert int(row["large"]) == one.disease.large and int(row["stage"]) == one.disease.stage
        if truth[index]:
            low, high = disease.LETTERS[row["letter"]]
            assert low <= float(row["diameter_mm"]) <= high
            assert float(row["largest_mm"]) == pytest.approx(one.diameters_mm.max(), abs=0.051)
        else:
            assert row["diameter_mm"] == row["largest_mm"] == ""


def test_who_is_positive_does_not_depend_on_the_mix(written, tmp_path):
    screening = phantom_files.write(tmp_path / "screening", 9, 4, **SMALL, seed=5, mix="screening")
    lines = ((folder / "labels.csv").read_text().splitlines() for folder in (written, screening))
    marked, other = ([line.split(",")[:3] for line in table] for table in lines)
    assert marked == other
    assert json.loads((screening / "phantom.json").read_text())["mix"] == "screening"
    with pytest.raises(ValueError, match=r"holds a phantom of another mix: "):
        phantom_files.write(screening, 9, 4, **SMALL, seed=5)
