import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import typed
from disks import filled, read_only
from pydicom.uid import RLELossless
from sources import ENCODINGS, encode, folder_of_pictures, picture, radiograph, save, save_picture, stored_values

from pneumo_nb import paths
from pneumo_nb.phantom.radiograph import render
from pneumo_nb.prepare import check, convert, manifest, phantom, prepare, read_dataset, refine, sources, summary
from pneumo_nb.prepare.manifest import MANIFEST, Journal
from pneumo_nb.settings import PhantomSettings, PrepareSettings


def quiet(source, name="x", labels=None, workers=1, **settings) -> Path:
    """Prepare without the search for text, which takes long on made-up noise, unless it is asked for."""
    settings = PrepareSettings(**{"burned_in": "ignore"} | settings)
    return prepare(source, labels, name, settings, progress=False, workers=workers)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a prepared folder; of dataset.json only what does not depend on times of change and the name."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    record = json.loads(found["dataset.json"])
    return found | {"dataset.json": {k: v for k, v in record.items() if k not in ("name", "fingerprint")}}


def test_a_prepared_folder_holds_images_manifest_rejects_and_counts(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    (source / "junk.dcm").write_bytes(b"junk")
    save_picture(source / "extra.png", picture(99))
    folder = quiet(source, validation_fraction=0.25)
    assert folder == paths.prepared("x")
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "examples",
        "images",
        "manifest.csv",
        "rejects.csv",
    ]
    manifest, dataset = read_dataset("x")
    assert list(manifest.columns) == MANIFEST
    assert (manifest["width"] == 24).all() and (manifest["original_height"] == 80).all()
    for row in manifest.itertuples():
        assert row.file == f"images/{row.image_id}.jpg"
        assert hashlib.sha256((folder / row.file).read_bytes()).hexdigest() == row.sha256
    assert sorted(manifest["source_sha256"]) == sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in source.glob("0*.png")
    )
    rejects = pd.read_csv(folder / "rejects.csv")
    assert rejects["position"].tolist() == [21, 22]  # extra.png and junk.dcm, after 000.png to 019.png
    assert rejects["file"].str.fullmatch("r-[0-9a-f]{12}").all()
    assert set(rejects["reason"]) == {"it has no row in the labels CSV"}
    counts = dataset["counts"]
    assert (counts["found"], counts["accepted"], counts["rejected"]) == (22, 20, 2)
    assert counts["parts"] == {
        "test": {"0": 2, "1": 2},
        "train": {"0": 6, "1": 6},
        "validation": {"0": 2, "1": 2},
    }
    assert dataset["overlap"] == 0 and dataset["patients_from"] == {"the labels CSV": 20}


def test_bad_files_change_nothing_for_the_good(home, tmp_path):
    clean = folder_of_pictures(tmp_path / "clean")
    mixed = folder_of_pictures(tmp_path / "mixed")
    os.mkfifo(mixed / "000pipe")
    (mixed / "link").symlink_to(mixed / "001.png")
    (mixed / "away").symlink_to(tmp_path)
    (mixed / "empty.dcm").write_bytes(b"")
    save(radiograph(stored_values(), Modality="CT"), mixed / "inner" / "ct.dcm")
    unreadable = save_picture(mixed / "locked.png", picture())
    (mixed / os.fsdecode(b"\xff.dcm")).write_bytes(bytes(128) + b"DICM" + os.urandom(500))
    with (mixed / "labels.csv").open("a") as table:
        table.write("inner/ct.dcm,1,z\nlocked.png,1,z\nempty.dcm,0,z\n")
    unreadable.chmod(0)
    one, two = contents(quiet(clean, "one")), contents(quiet(mixed, "two"))
    locked = 0 if os.geteuid() == 0 else 1  # root reads everything: then there is one image more
    if locked:
        assert one["manifest.csv"] == two["manifest.csv"]
        assert {k: v for k, v in one.items() if k.startswith("images/")} == {
            k: v for k, v in two.items() if k.startswith("images/")
        }
    assert {k: v for k, v in two.items() if k in one and k.startswith("images/")} == {
        k: v for k, v in one.items() if k.startswith("images/")
    }
    assert two["dataset.json"]["counts"]["rejected"] == 6 + locked
    assert two["dataset.json"]["counts"]["found"] == 27


@pytest.fixture(scope="module")
def mostly_bad(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of DICOM radiographs, and one in which they lie among such that are cut short."""
    folder, random = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    for number, syntax in enumerate(ENCODINGS):
        path = save(radiograph(stored_values(seed=number), PatientID=f"P{number}"), folder / f"good/g{number}.dcm")
        encoded = encode(radiograph(stored_values(seed=number)), syntax)
        for content in (path.read_bytes(), save(encoded, folder / "encoded.dcm").read_bytes()):
            for end in [*random.integers(0, len(content), 15), *range(len(content) - 9, len(content) - 1)]:
                path = folder / f"bad/cut/{number}-{len(content)}-{end}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content[:end])
    shutil.copytree(folder / "good", folder / "bad", dirs_exist_ok=True)
    return folder / "good", folder / "bad"


def test_files_cut_short_are_all_rejected_and_change_nothing_for_the_good(home, mostly_bad):
    good, bad = (contents(quiet(folder, folder.name, workers=2)) for folder in mostly_bad)
    assert good.pop("rejects.csv").count(b"\n") == 1
    assert bad.pop("rejects.csv").count(b"\n") == 1 + sum(path.is_file() for path in mostly_bad[1].rglob("cut/*"))
    counts = bad["dataset.json"]["counts"]
    assert counts["accepted"] == len(ENCODINGS) and counts["found"] == counts["accepted"] + counts["rejected"]
    assert {**good, "dataset.json": 0} == {**bad, "dataset.json": 0}


def test_real_malformed_files_are_all_rejected_and_change_nothing_for_the_good(home, mostly_bad, tmp_path, shared):
    shutil.copytree(mostly_bad[0], tmp_path / "mixed")
    with tarfile.open(shared / "data" / "dicom-malformed.tar.xz") as archive:
        archive.extractall(tmp_path / "mixed" / "malformed", filter="data")
    good, mixed = contents(quiet(mostly_bad[0], "good")), contents(quiet(tmp_path / "mixed", "mixed", workers=2))
    files = sum(path.is_file() for path in (tmp_path / "mixed" / "malformed").rglob("*"))
    assert mixed["dataset.json"]["counts"]["rejected"] == files > 150
    assert mixed["rejects.csv"].count(b"\n") == 1 + files
    assert {**good, "dataset.json": 0, "rejects.csv": 0} == {**mixed, "dataset.json": 0, "rejects.csv": 0}


def test_files_that_vanish_or_change_meanwhile_are_rejected(home, tmp_path, monkeypatch):
    source = folder_of_pictures(tmp_path / "source")
    read = sources.read

    def read_and_lose(*arguments):
        found = read(*arguments)
        (source / "003.png").unlink()
        (source / "004.png").unlink()
        os.mkfifo(source / "004.png")
        return found

    monkeypatch.setattr(sources, "read", read_and_lose)
    quiet(source)
    rejects = pd.read_csv(paths.prepared("x") / "rejects.csv").set_index("position")["reason"].to_dict()
    assert rejects == {4: "it cannot be read (FileNotFoundError)", 5: "it is a link or not a regular file"}


def test_one_uid_on_two_pictures_is_reported_and_both_are_kept(home, tmp_path):
    for number, uid in enumerate(("1.2.3", "1.2.3", "1.2.4", "1.2.4", "")):
        header = radiograph(stored_values(seed=number // 3), SOPInstanceUID=uid, PatientID=f"P{number}")
        if number == 0:
            header.compress(RLELossless, generate_instance_uid=False)
        save(header, tmp_path / f"s/{number}.dcm")
    quiet(tmp_path / "s")
    counts = read_dataset("x")[1]["counts"]
    assert (counts["accepted"], counts["duplicates"], counts["uids_of_two_pictures"]) == (5, 3, 1)
    assert "1 SOPInstanceUIDs are borne by files with different pictures" in summary(read_dataset("x")[1])


def test_the_same_call_does_nothing_and_any_change_prepares_anew(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    folder = quiet(source)
    before = (folder / "dataset.json").stat().st_mtime_ns
    assert quiet(source) == folder and (folder / "dataset.json").stat().st_mtime_ns == before
    first = read_dataset("x")[1]["hash"]
    quiet(source, quality=50)
    assert read_dataset("x")[1]["hash"] != first
    quiet(source)
    assert read_dataset("x")[1]["hash"] == first
    save_picture(source / "000.png", picture(1234))
    quiet(source)
    assert read_dataset("x")[1]["hash"] != first
    (folder / "dataset.json").write_text("{")
    quiet(source)
    read_dataset("x")


def test_workers_and_the_place_of_the_source_do_not_show(home, tmp_path):
    one = folder_of_pictures(tmp_path / "one")
    two = tmp_path / "two"
    two.mkdir()
    for path in sorted(one.iterdir(), reverse=True):
        (two / path.name).write_bytes(path.read_bytes())
    assert contents(quiet(one, "one", workers=1)) == contents(quiet(two, "two", workers=2))


def test_figure_1_can_be_rebuilt_from_the_examples(home, tmp_path):
    settings = {"format": "png", "order": "downsize_first"}
    folder = quiet(folder_of_pictures(tmp_path / "source"), **settings)
    manifest, dataset = read_dataset("x")
    assert manifest.set_index("image_id").loc[dataset["examples"], "label"].tolist() == ["1", "0"]
    for image_id in dataset["examples"]:
        original = cv2.imread(str(folder / f"examples/{image_id}.png"), cv2.IMREAD_UNCHANGED)
        prepared = cv2.imread(str(folder / f"images/{image_id}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(refine(original, PrepareSettings(**settings)), prepared)


def test_dicom_at_sixteen_bits_goes_all_the_way(home, tmp_path):
    for number in range(4):
        save(radiograph(stored_values(16, seed=number), 16, PatientID=f"P{number // 2}"), tmp_path / f"s/{number}.dcm")
    folder = quiet(tmp_path / "s", bits=16, format="png", downsize=2)
    manifest, dataset = read_dataset("x")
    image = cv2.imread(str(folder / manifest["file"][0]), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16 and image.shape == (35, 45)
    assert manifest["patient_id"].nunique() == 2 and dataset["patients_from"] == {"DICOM PatientID": 4}
    assert set(manifest["split"]) == {"none"} and set(manifest["label"]) == {""}
    assert "none: 4 images, 4 unlabelled" in summary(dataset)


def test_a_phantom_folder_is_prepared_with_its_masks(home, tmp_path):
    source, lines = tmp_path / "source", ["file,label,patient_id,stage,lung_mask,opacity_mask"]
    for number in range(12):
        save(radiograph(stored_values(shape=(80, 80), seed=number)), source / f"radiographs/{number}.dcm")
        for kind in ("lungs", "opacities"):
            mask = np.zeros((80, 80), np.uint8)
            mask[20:60, 8 * (kind == "lungs") : 40] = 255
            save_picture(source / f"masks/{kind}/{number}.png", mask)
        masks = f"masks/lungs/{number}.png,masks/opacities/{number}.png"
        lines.append(f"radiographs/{number}.dcm,{number % 2},p{number},{number % 2 * 3},{masks}")
    (source / "labels.csv").write_text("\n".join(lines))
    (source / "phantom.json").write_text("{}")
    folder = quiet(source, split="paper")
    manifest, dataset = read_dataset("x")
    assert dataset["counts"]["found"] == dataset["counts"]["accepted"] == 12
    assert manifest["stage"].tolist() == [str(int(label) * 3) for label in manifest["label"]]
    for image_id in manifest["image_id"]:
        for kind, area in (("lungs", 8 * 10), ("opacities", 10 * 10)):
            mask = cv2.imread(str(folder / f"masks/{image_id}_{kind}.png"), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (20, 20) and np.count_nonzero(mask) == area


def test_a_patient_and_a_picture_are_never_on_both_sides(home, tmp_path):
    source, lines = tmp_path / "source", ["file,label,patient_id"]
    for number in range(40):
        save_picture(source / f"{number}.png", picture(number // 4 if number % 2 else number))
        lines.append(f"{number}.png,{number % 2},{'shared' if number in (2, 5, 9) else number}")
    (source / "labels.csv").write_text("\n".join(lines))
    quiet(source)
    manifest, dataset = read_dataset("x")
    assert dataset["counts"]["duplicates"] == 15 and dataset["overlap"] == 0
    sources = {hashlib.sha256(path.read_bytes()).hexdigest(): path.stem for path in source.glob("*.png")}
    sides = manifest.groupby("source_sha256")["split"].nunique()
    assert len(sources) == 25 and (sides == 1).all()
    assert manifest.groupby("patient_id")["split"].nunique().max() == 1
    assert "15 images show the same picture as another one" in summary(dataset)


@pytest.mark.parametrize("way,on_both_sides", [("patient", 0), ("paper", 0), ("given", 2)])
def test_exact_duplicates_are_on_both_sides_only_if_told_so(home, tmp_path, way, on_both_sides):
    source = folder_of_pictures(tmp_path / "source", 20, 20)
    parts = ["train" if number % 4 else "test" for number in range(40)]
    for number in range(1, 20, 2):  # other patients, and other files of the same pixels
        save_picture(source / f"{number:03}.png", picture(number - 1))
    for number in range(4, 20, 4):
        parts[number + 1] = "test" if number > 8 else "train"
    parts[1] = "test"
    table = pd.read_csv(source / "labels.csv", dtype=str).assign(split=parts)
    table.to_csv(source / "labels.csv", index=False)
    quiet(source, split=way)
    manifest, dataset = read_dataset("x")
    assert dataset["counts"]["duplicates"] == 10 and dataset["overlap_of_pictures"] == on_both_sides
    assert (manifest.groupby("sha256")["split"].nunique() > 1).sum() == on_both_sides
    told = f"; {on_both_sides} pictures are in training and in testing" if way == "given" else ""
    assert f"10 images show the same picture as another one{told}\n" in summary(dataset)


def test_the_papers_split_says_how_many_patients_leak(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source", 20, 20)
    table = pd.read_csv(source / "labels.csv")
    table["patient_id"] = [f"p{n // 4}" for n in range(40)]
    table.to_csv(source / "labels.csv", index=False)
    quiet(source, split="paper")
    manifest, dataset = read_dataset("x")
    train, test = (set(manifest[manifest["split"] == part]["patient_id"]) for part in ("train", "test"))
    assert dataset["overlap"] == len(train & test) > 0
    assert f"{len(train & test)} of the {len(test)} patients of the test part are also in training" in summary(dataset)


def test_a_given_split_is_kept(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source", 2, 2)
    table = pd.read_csv(source / "labels.csv", dtype=str)
    table["split"] = ["test", "train", "train", "test"]
    table["stage"] = ["0", "0", "I", "II"]
    table.to_csv(source / "labels.csv", index=False)
    quiet(source, split="given")
    manifest, _ = read_dataset("x")
    assert manifest["split"].tolist() == ["test", "train", "train", "test"]
    assert manifest["stage"].tolist() == ["0", "0", "I", "II"]


def test_what_is_known_of_the_disease_is_copied_after_the_stage_and_left_empty_where_it_is_not(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source", 5, 5)
    lines = (source / "labels.csv").read_text().splitlines()
    lines[0] += ",stage,profusion,letter,large,diameter_mm,largest_mm,reader"
    lines[1:6] = [line + ",,,,,,,Ada Miller" for line in lines[1:6]]
    lines[6:] = [line + ",3,3 2 1 0 0 1,q,2,1.8,21.5,Ada Miller" for line in lines[6:]]
    (source / "labels.csv").write_text("\n".join(lines))
    quiet(source)
    text = (paths.prepared("x") / "manifest.csv").read_text()
    assert ",1,3,3 2 1 0 0 1,q,2,1.8,21.5,t" in text and ",0,,,,,,,t" in text and "Ada" not in text
    manifest, dataset = read_dataset("x")
    positive = manifest[manifest["label"] == "1"]
    assert set(positive["profusion"]) == {"3 2 1 0 0 1"} and positive["largest_mm"].tolist() == [21.5] * 5
    negative = manifest[manifest["label"] == "0"]
    assert set(negative["letter"]) == {""} and negative[["large", "diameter_mm"]].isna().all(axis=None)
    assert dataset["known"]["stage"] == 5


def test_a_phantom_needs_no_secret_and_is_the_same_everywhere_and_people_always_do(home, tmp_path, monkeypatch):
    size = PhantomSettings(patients=10, positives=5, width=128, height=128)
    hashes, sums = set(), []
    for number in ("one", "two", "rounded"):
        monkeypatch.setenv("PNEUMO_NB_HOME", str(home / number))
        phantom("phantom", size, progress=False)
        assert not paths.pseudonym_secret().exists()
        hashes.add(read_dataset("phantom")[1]["hash"])
        sums.append(read_dataset("phantom")[0]["sha256"].tolist())
        for another in ("two", "rounded"):
            shutil.copytree(home / "one/data/raw", home / another / "data/raw", dirs_exist_ok=True)
        file = sorted((home / "rounded/data/raw").rglob("*.dcm"))[0]  # as another CPU may have it
        drawn = pydicom.dcmread(file)
        drawn.PixelData = (drawn.pixel_array ^ 1).tobytes()
        drawn.save_as(file)
    assert len(hashes) == 1 and sums[0] == sums[1] != sums[2]
    assert (
        read_dataset("phantom")[1]["phantom"]
        == hashlib.sha256(next(paths.raw("").glob("*/phantom.json")).read_bytes()).hexdigest()
    )
    (invented,) = paths.raw("").glob("phantom-*")
    quiet(invented, "own")  # by another name it keeps its secret
    assert read_dataset("own")[1]["hash"] not in hashes and paths.pseudonym_secret().exists()
    names = []
    for _ in range(2):
        quiet(folder_of_pictures(home / "people"), "people")
        names.append(set(read_dataset("people")[0]["patient_id"]))
        paths.pseudonym_secret().unlink()
    assert not names[0] & names[1]


@cache
def small_phantom(number: int) -> np.ndarray:
    values = render(number, number % 2 == 1, 256, 266, 0).pixels
    return (values / values.max() * 255).astype(np.uint8)


def with_text(folder: Path, *numbers: int) -> Path:
    """Phantoms as PNG files with labels; those of these numbers show a name."""
    lines = ["file,label"]
    for number in range(12):
        image = small_phantom(number)
        if number in numbers:
            image, *_ = typed.write(image, typed.Typed("MOCKFORD^VERA", "DejaVuSans", 0.05, "white", (0.03, 0.03)))
        save_picture(folder / f"{number:02}.png", image)
        lines.append(f"{number:02}.png,{number % 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def crops_of(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.suspected_text(name).iterdir()}


def test_suspected_text_is_listed_with_its_crop_and_nothing_is_dropped(home, tmp_path):
    quiet(with_text(tmp_path / "source", 3, 8), burned_in="list")
    manifest, dataset = read_dataset("x")
    flagged = manifest[manifest["suspected_text"] > 0]
    assert len(manifest) == 12 and dataset["counts"]["suspected_text"] == len(flagged) == 2
    assert "burned into 2 radiographs, cropped in data/suspected_text/x/: look at them" in summary(dataset)
    assert sorted(path.stem for path in paths.suspected_text("x").iterdir()) == sorted(flagged["image_id"])
    for path in paths.suspected_text("x").iterdir():
        assert cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).max() == 255
    assert not list(paths.prepared("x").rglob("*suspected*"))  # sharing the dataset does not share the crops


def test_suspected_text_is_refused_or_not_looked_for_if_so_set(home, tmp_path):
    source = with_text(tmp_path / "source", 3)
    quiet(source, burned_in="list")
    quiet(source, burned_in="refuse")
    rejects = pd.read_csv(paths.prepared("x") / "rejects.csv")
    assert rejects["position"].tolist() == [4] and "seem to show text" in rejects["reason"][0]
    assert [path.stem for path in paths.suspected_text("x").iterdir()] == rejects["file"].tolist()
    assert read_dataset("x")[1]["counts"]["suspected_text"] == 1
    quiet(source, burned_in="ignore")
    assert read_dataset("x")[1]["counts"]["suspected_text"] == 0 and len(read_dataset("x")[0]) == 12
    assert not paths.suspected_text("x").exists()


def test_crops_of_a_preparing_that_comes_to_nothing_go_with_it_and_those_of_the_dataset_there_stay(home, tmp_path):
    source = with_text(tmp_path / "source", 3, 8)
    quiet(source, burned_in="list")
    before = contents(paths.prepared("x")), crops_of("x")
    with_text(source, 4)
    for number in range(1, 12, 2):
        (source / f"{number:02}.png").write_bytes(b"junk")
    for name in ("x", "new"):
        with pytest.raises(ValueError, match="all accepted radiographs have label 0"):
            quiet(source, name, burned_in="list")
    assert (contents(paths.prepared("x")), crops_of("x")) == before and len(before[1]) == 2
    assert [path.name for path in paths.suspected_text("").iterdir()] == ["x"]


@pytest.mark.parametrize("moment", ["prepared", "suspected_text"])
def test_a_kill_between_the_names_of_crops_and_dataset_costs_neither(home, tmp_path, monkeypatch, moment):
    source = with_text(tmp_path / "source", 3, 8)
    put = paths.put

    def killed(beside, path):
        if path.parent.name == moment and path.name == "x":
            raise KeyboardInterrupt
        put(beside, path)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(paths, "put", killed)
        quiet(source, burned_in="list")
    for part in paths.suspected_text("").glob(".x.*"):
        (part / ".r-0123.0123abcd.part.png").touch()  # as a worker that was killed leaves it
    quiet(source, burned_in="list")
    flagged = read_dataset("x")[0].query("suspected_text > 0")["image_id"]
    assert sorted(crops_of("x")) == sorted(flagged + ".png") and len(flagged) == 2


@pytest.mark.parametrize("harm", ["a byte more", "gone", "manifest cut"])
def test_a_dataset_that_was_damaged_is_made_whole_by_the_same_command(home, tmp_path, harm):
    folder = quiet(folder_of_pictures(tmp_path / "source"))
    before, image = contents(folder), sorted((folder / "images").iterdir())[0]
    if harm == "gone":
        image.unlink()
    else:
        damaged = image if harm == "a byte more" else folder / "manifest.csv"
        damaged.write_bytes(damaged.read_bytes() + b"x" if damaged == image else damaged.read_bytes()[:-40])
    assert contents(quiet(tmp_path / "source")) == before


def test_a_crop_of_suspected_text_is_there_whole_or_not_at_all(small_disk, tmp_path):
    job = convert.Job(with_text(tmp_path / "source", 3), None, PrepareSettings(), b"k", small_disk / "crops")
    job.suspects.mkdir()
    task = convert.Task("03.png", "r-3", sources.Row())
    with filled(small_disk, but=0), pytest.raises(OSError, match="cannot be written"):
        convert.convert(job, task)
    assert not list(job.suspects.iterdir())
    convert.convert(job, task)
    (crop,) = job.suspects.iterdir()
    assert crop.name == "r-3.png" and cv2.imread(str(crop)) is not None


def dated(folder: Path) -> Path:
    """Two radiographs each of ten patients, taken 100 days apart; one with a faulty date, one with none."""
    lines = ["file,label,patient_id"]
    for number in range(20):
        day = date(2016, 1, 31) + timedelta(100 * (number % 2) + 31 * number)
        text = {6: "20161399", 7: None}.get(number, f"{day:%Y%m%d}")
        name = f"{number:02}.dcm"
        save(radiograph(stored_values(seed=number), StudyDate="20200101", AcquisitionDate=text or ""), folder / name)
        if number in (6, 7):
            save(radiograph(stored_values(seed=number), StudyDate=text or ""), folder / name)
        lines.append(f"{name},{number // 10},patient {number // 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dates_become_nothing_or_move_with_their_patient(home, tmp_path):
    source = dated(tmp_path / "source")
    quiet(source)
    assert set(read_dataset("x")[0]["acquired"]) == {""}
    quiet(source, dates="shifted")
    manifest, dataset = read_dataset("x")
    assert dataset["known"]["acquired"] == 18 and (manifest["acquired"] == "").sum() == 2
    moved = pd.to_datetime(manifest["acquired"]).to_numpy().reshape(10, 2)
    true = np.array([date(2016, 1, 31) + timedelta(100 * (n % 2) + 31 * n) for n in range(20)], "M8[s]").reshape(10, 2)
    offset = (true - moved).astype("m8[D]")
    known = [patient for patient in range(10) if patient != 3]
    assert (offset[known, 0] == offset[known, 1]).all()  # intervals are kept
    assert len(set(offset[known, 0].tolist())) == 9 and (offset[known] > np.timedelta64(0)).all()
    paths.pseudonym_secret().unlink()
    quiet(source, dates="shifted")
    assert not (read_dataset("x")[0]["acquired"] == manifest["acquired"])[manifest["acquired"] != ""].any()


def test_checking_says_what_preparing_does_and_writes_nothing(home, tmp_path):
    source = with_text(tmp_path / "source", 3)
    (source / "junk").write_bytes(b"junk")
    folder = quiet(source, burned_in="list")
    before = contents(folder)
    told = check(source, None, PrepareSettings(), progress=False, workers=1)
    dataset = read_dataset("x")[1]
    assert told["counts"] == dataset["counts"] and told["overlap"] == dataset["overlap"] == 0
    assert told["counts"]["suspected_text"] == 1 and told["counts"]["rejected"] == 1
    assert contents(folder) == before
    with pytest.raises(ValueError, match="too few"):
        check(source, None, PrepareSettings(burned_in="refuse", test_fraction=0.01), progress=False, workers=1)


def test_checking_leaves_an_empty_project_empty(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    told = check(source, None, PrepareSettings(), progress=False, workers=1)
    assert told["counts"]["accepted"] == 20 and "20 files found" in summary(told)
    assert [path.name for path in home.iterdir()] == ["source"]


REFUSED = [
    ({"name": "../x"}, "cannot name a dataset"),
    ({"name": ""}, "cannot name a dataset"),
    ({"name": "a b"}, "cannot name a dataset"),
    ({"name": "phantom"}, "would name a phantom"),
    (
        {"name": "phantom-of-people"},
        "'phantom-of-people' would name a phantom, which notebook 01 makes: choose another",
    ),
    ({"workers": 0}, "workers = 0: 1 to"),
    ({"workers": 100_000}, "workers = 100000: 1 to"),
    ({"source": "nothing"}, "there is no folder"),
    ({"source": "source/000.png"}, "there is no folder"),
    ({"source": "empty"}, "holds no files"),
    ({"source": "."}, "contains data/prepared"),
    ({"labels": "nothing.csv"}, "'nothing.csv' cannot be opened"),
    ({"test_fraction": 0.01}, "too few for one in the test part"),
    ({"split": "given"}, "needs the columns file, label, split"),
]


@pytest.mark.parametrize("call,message", REFUSED)
def test_what_cannot_work_is_refused_before_it_starts(home, tmp_path, monkeypatch, call, message):
    folder_of_pictures(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("pneumo_nb.processes.spread", None)
    call = {"source": "source", "name": "x"} | call
    labels = tmp_path / call.pop("labels") if "labels" in call else None
    with pytest.raises(ValueError, match=message) as caught:
        quiet(tmp_path / call.pop("source"), call.pop("name"), labels, **call)
    assert "\n" not in str(caught.value)
    assert not (home / "data").exists()


def test_too_little_left_after_rejecting_leaves_nothing_behind(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    for number in range(10, 20):
        (source / f"{number:03}.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match="all accepted radiographs have label 0"):
        quiet(source)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"none of the 1 files became an image \(1: it is not a DICOM"):
        quiet(tmp_path / "junk")
    assert [path for path in paths.prepared().iterdir() if path.is_dir()] == []


def test_a_missing_dataset_is_refused_with_the_names_there_are(home, tmp_path):
    with pytest.raises(ValueError, match="no prepared dataset 'y'; there is none yet"):
        read_dataset("y")
    quiet(folder_of_pictures(tmp_path / "source"))
    with pytest.raises(ValueError, match="no prepared dataset 'y'; there is x"):
        read_dataset("y")


@pytest.mark.parametrize("room", [(1, 20), pytest.param((0, 1, 2, 5, 10, 20, 25), marks=pytest.mark.slow)])
def test_on_a_full_disk_the_same_call_goes_on_once_there_is_room(small_disk, tmp_path, monkeypatch, room):
    source = folder_of_pictures(tmp_path / "source")
    monkeypatch.setenv("PNEUMO_NB_HOME", str(small_disk))
    undisturbed = contents(quiet(source))
    refused = 0
    for pages in room:
        shutil.rmtree(paths.prepared())
        with filled(small_disk, but=pages * 4096):
            try:
                quiet(source)
            except OSError as error:
                refused += 1
                assert str(error).endswith("cannot be written: No space left on device")
                assert str(tmp_path) not in str(error)
                assert not paths.prepared("x").exists()
        assert contents(quiet(source)) == undisturbed
    assert refused >= len(room) - 2 and refused
    with read_only(small_disk), pytest.raises(OSError, match=r"^data/prepared/\.y\.lock cannot be written: Read-only"):
        quiet(source, "y")


SCRIPT = """
import resource, sys
from pneumo_nb.prepare import prepare
from pneumo_nb.settings import PrepareSettings
if __name__ == "__main__":
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    prepare(sys.argv[1], None, "x", PrepareSettings(burned_in="ignore"), progress=False, workers=2)
"""


def start(tmp_path, *arguments) -> subprocess.Popen:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_write_that_fails_leaves_the_old_dataset_and_no_half_of_a_new_one(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    before = contents(quiet(source))
    save_picture(source / "015.png", picture(shape=(800, 960)))  # its prepared image is larger than may be written
    run = start(tmp_path, source, 20_000)
    assert "File too large" in run.communicate(timeout=60)[1] and run.returncode == 1
    assert contents(paths.prepared("x")) == before
    assert contents(quiet(source)) != before
    assert [path.name for path in paths.prepared().iterdir() if path.is_dir()] == ["x"]


@pytest.mark.parametrize("kills", [(1, 40), pytest.param((1, 20, 40, 60, 70, 80), marks=pytest.mark.slow)])
def test_killed_again_and_again_the_same_command_goes_on_and_ends_the_same(home, tmp_path, kills):
    source = folder_of_pictures(tmp_path / "source", 60, 60)
    for number in range(0, 120, 20):
        (source / f"{number:03}.png").write_bytes(b"junk")
    undisturbed = contents(quiet(source, "y", workers=2))
    written: dict[Path, int] = {}
    for wanted in kills:
        run = start(tmp_path, source)
        while run.poll() is None and journaled() < wanted:
            time.sleep(0.001)
        run.kill()
        run.communicate()
        assert not paths.prepared("x").exists()
        (part,) = paths.prepared().glob(".x.*.part")
        for path, when in written.items():
            assert path.stat().st_mtime_ns == when, "done twice"
        with Journal(part.with_suffix(".journal")) as journal:
            found = [part / entry["file"] for entry in journal if "reason" not in entry]
        written = {path: path.stat().st_mtime_ns for path in found}
    damaged = min(written)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert contents(quiet(source)) == undisturbed
    assert not list(paths.prepared().glob(".x.*.part")) and not list(paths.prepared().glob(".x.*.journal"))


def journaled() -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths.prepared().glob(".x.*.journal"))


def test_a_changed_setting_or_source_does_not_go_on_with_the_old_part(home, tmp_path, monkeypatch):
    source = folder_of_pictures(tmp_path / "source")
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(manifest, "write", Mock(side_effect=KeyboardInterrupt))
        quiet(source)
    assert list(paths.prepared().glob(".x.*.journal")) and journaled() == 20
    assert contents(quiet(source, quality=60)) == contents(quiet(source, "y", quality=60))
    assert not list(paths.prepared().glob(".x.*"))[1:]  # but for the lock


def test_a_dataset_set_aside_by_a_killed_run_comes_back(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    folder = quiet(source)
    before = (folder / "manifest.csv").stat().st_mtime_ns
    folder.rename(folder.with_name(".x.12345678.old"))
    assert (quiet(source) / "manifest.csv").stat().st_mtime_ns == before
    assert not list(folder.parent.glob(".x.*.old"))


def test_two_at_once_make_one_dataset(home, tmp_path):
    source = folder_of_pictures(tmp_path / "source")
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: quiet(source), range(2)))
    assert folders[0] == folders[1] and len(read_dataset("x")[0]) == 20


def test_real_dicom_files_are_accounted_for(home, shared):
    folder = shared / "data" / "dicom-real"
    quiet(folder / "files", "real")
    manifest, dataset = read_dataset("real")
    wanted = {row["sha256"] for row in csv.DictReader((folder / "manifest.csv").open()) if row["group"] == "chest"}
    assert wanted < set(manifest["source_sha256"]) and len(manifest) == len(wanted) + 1  # and udacity_test6
    assert dataset["counts"]["found"] == len(list((folder / "files").iterdir()))
    assert dataset["counts"]["duplicates"] == 1
    assert "are also in training" not in summary(dataset)


@pytest.mark.parametrize("one_in", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_real_radiographs_split_by_patient(home, shared, one_in):
    table = pd.read_csv(shared / "data" / "nih-cxr" / "labels.csv", dtype=str, keep_default_na=False)
    table = table[table["patient_id"].rank(method="dense") % one_in == 0]
    table.to_csv(home / "some.csv", index=False)
    quiet(shared / "data" / "nih-cxr", "nih", home / "some.csv")
    manifest, dataset = read_dataset("nih")
    assert dataset["counts"]["accepted"] == len(table) and dataset["overlap"] == 0
    assert manifest["patient_id"].nunique() == 150 // one_in
    for label, rows in manifest.groupby("label"):
        assert abs((rows["split"] == "test").sum() - len(rows) // 5) <= 2, label
    assert set(manifest["view"]) == {"AP", "PA"}


def test_importing_is_light(home):
    heavy = "{'torch', 'pandas', 'sklearn', 'matplotlib', 'pydicom'}"
    script = f"import sys, pneumo_nb.prepare; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
