import csv
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumo_nb.prepare import manifest
from pneumo_nb.settings import PrepareSettings

SETTINGS = PrepareSettings()


def accepted(position, label="0", picture=None):
    """What converting tells of one image, as the journal keeps it."""
    values = dict.fromkeys([*manifest.MANIFEST, *manifest.COUNTED], "")
    values |= {"image_id": f"r-{position}", "patient_id": f"p-{position}", "label": label, "position": position}
    return values | {"sha256": picture or f"sha-{position}", "patient_from": "the labels CSV", "suspected_text": 0}


def entries_of(labels):
    """One entry for each of `labels`, of which None is a reject."""
    return [
        {"position": place, "file": f"r-{place}", "reason": "it is empty"} if label is None else accepted(place, label)
        for place, label in enumerate(labels, start=1)
    ]


@given(st.lists(st.sampled_from(["0", "1", None]), max_size=40).map(lambda more: [*"0000011111", *more]))
def test_found_is_accepted_and_rejected_and_every_accepted_image_is_in_one_part(labels):
    entries = entries_of(labels)
    images, told = manifest.outcome(entries, SETTINGS)
    counts = told["counts"]
    assert counts["found"] == len(labels) == counts["accepted"] + counts["rejected"]
    assert counts["rejected"] == labels.count(None) == sum(counts["reasons"].values())
    assert len(images) == counts["accepted"] and set(images["split"]) == {"train", "test"}
    assert sum(sum(part.values()) for part in counts["parts"].values()) == counts["accepted"]
    assert manifest.summary(told).startswith(f"{len(labels)} files found: {counts['accepted']} accepted")


def test_rows_are_written_in_order_and_hold_the_listed_columns_only(tmp_path):
    entries = entries_of(["0", None, *"0110101010"])
    entries[0]["secret"] = "PATIENT^NAME"
    images, told = manifest.outcome(entries, SETTINGS)
    manifest.write(tmp_path, entries, images["split"], {"name": "x"} | told)
    kept, rejected = (list(csv.reader((tmp_path / name).open())) for name in ("manifest.csv", "rejects.csv"))
    assert kept[0] == manifest.MANIFEST and rejected == [manifest.REJECTS, ["r-2", "2", "it is empty"]]
    assert [row[0] for row in kept[1:]] == [f"r-{place}" for place in range(1, 13) if place != 2]
    assert not any("PATIENT" in file.read_text() for file in tmp_path.iterdir())
    stored = json.loads((tmp_path / "dataset.json").read_text())
    assert stored["name"] == "x" and len(stored["hash"]) == 64


def test_the_hash_knows_every_row_and_every_setting(tmp_path):
    hashes = set()
    for labels, settings in (("0110", SETTINGS), ("0111", SETTINGS), ("0110", SETTINGS.varied(quality=90))):
        entries = entries_of([*labels, *"010101010101"])
        images, told = manifest.outcome(entries, settings)
        manifest.write(tmp_path, entries, images["split"], told)
        hashes.add(json.loads((tmp_path / "dataset.json").read_text())["hash"])
    assert len(hashes) == 3


def test_one_picture_twice_is_counted_and_stays_on_one_side():
    entries = [accepted(place, str(place % 2), picture=f"sha-{place // 4}") for place in range(1, 41)]
    images, told = manifest.outcome(entries, SETTINGS)
    sides = images.groupby("sha256")["split"].nunique()
    assert (sides == 1).all() and told["overlap_of_pictures"] == 0
    assert told["counts"]["duplicates"] == 40 - len(sides)
    assert told["counts"]["duplicates_with_two_labels"] > 0


def told_of(entries, **settings):
    return manifest.summary(manifest.outcome(entries, PrepareSettings(**settings))[1])


def test_leakage_is_vouched_for_only_where_patients_are_known():
    entries = [accepted(place, str(place % 2)) for place in range(1, 41)]
    assert told_of(entries).endswith("0 of the 8 patients of the test part are also in training")
    for entry in entries[:30]:
        entry["patient_from"] = manifest.UNKNOWN
    mixed = told_of(entries)
    assert "the patients of 30 images are not known, so that leakage cannot be excluded: a column patient_id" in mixed
    assert "split=paper" in mixed and "0 of the 8 patients" not in mixed
    for entry in entries:
        entry["patient_from"] = manifest.PLACEHOLDER if entry["position"] % 2 else manifest.UNKNOWN
    assert "of 40 images are not known" in told_of(entries) and "also in training" not in told_of(entries)


@pytest.mark.parametrize("same,where", [(30, "DICOM PatientID"), (12, "the labels CSV"), (2, manifest.PLACEHOLDER)])
def test_one_name_over_many_images_or_a_placeholder_is_told_with_the_remedy(same, where):
    entries = [accepted(place, str(place % 2)) for place in range(1, 81)]
    for entry in entries[:same]:
        entry |= {"patient_id": "p-x", "patient_from": where}
    told = told_of(entries, test_fraction=0.1)
    assert f"{same} radiographs bear one PatientID, perhaps a placeholder, and count as one patient" in told
    assert "a column patient_id in the labels CSV" in told and "--set split=paper" in told
    assert "known patients of the test part are also in training" in told


def test_a_placeholder_for_all_is_named_and_not_a_lack_of_images():
    entries = [accepted(place, str(place % 2)) | {"patient_id": "p-x"} for place in range(1, 41)]
    with pytest.raises(ValueError, match=r"^40 radiographs bear one PatientID: label 0 .* split=paper") as caught:
        told_of(entries)
    assert "add some" not in str(caught.value)
    assert "40 radiographs bear one PatientID, perhaps" in told_of(entries, split="paper")


def test_what_a_person_should_look_at_is_listed_and_counted(tmp_path):
    entries = [accepted(place, str(place % 2)) for place in range(1, 21)]
    entries[3] |= {"grey_range": "unknown", "faulty": "PixelSpacing"}
    entries[5] |= {"grey_range": "used", "contradiction": "ViewPosition ViewCodeSequence", "faulty": "PixelSpacing"}
    images, told = manifest.outcome(entries, SETTINGS)
    counts = told["counts"]
    assert [counts[name] for name in ("grey_range", "less_grey_than_declared", "faulty", "contradiction")] == [
        1,
        1,
        2,
        1,
    ]
    text = manifest.summary(told)
    assert "1 radiographs are shown nearly flat" in text and "see contradiction in manifest.csv" in text
    manifest.write(tmp_path, entries, images["split"], told)
    rows = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    assert (rows[3]["grey_range"], rows[5]["faulty"], rows[4]["faulty"]) == ("unknown", "PixelSpacing", "")


def test_none_accepted_is_said_with_the_reasons():
    entries = entries_of([None, None])
    with pytest.raises(ValueError, match=r"none of the 2 files became an image \(2: it is empty\)"):
        manifest.outcome(entries, SETTINGS)


def test_entries_come_back_in_the_order_of_positions(tmp_path):
    with manifest.Journal(tmp_path / "j") as journal:
        for position in (4, 1, 3):
            journal.add({"position": position, "text": f"é{position}\n"})
        assert [entry["text"] for entry in journal] == ["é1\n", "é3\n", "é4\n"]
        journal.add({"position": 5})
        assert [entry["position"] for entry in journal] == [1, 3, 4, 5]


def test_of_two_entries_for_one_position_the_last_counts(tmp_path):
    for text in ("first", "second"):
        with manifest.Journal(tmp_path / "j") as journal:
            journal.add({"position": 1, "text": text})
    with manifest.Journal(tmp_path / "j") as journal:
        assert [entry["text"] for entry in journal] == ["second"]


@given(cut=st.integers(0, 400))
def test_cut_anywhere_whole_entries_stay_and_others_can_be_added(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    with manifest.Journal(path) as journal:
        for position in range(1, 11):
            journal.add({"position": position, "text": "x" * position})
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    kept = content[:cut].count(b"\n")
    with manifest.Journal(path) as journal:
        assert [entry["position"] for entry in journal] == list(range(1, kept + 1))
        for position in range(kept + 1, 11):
            journal.add({"position": position, "text": "x" * position})
    assert path.read_bytes() == content


def test_memory_does_not_grow_with_what_is_in_an_entry(tmp_path):
    with manifest.Journal(tmp_path / "j") as journal:
        tracemalloc.start()
        for position in range(1, 2001):
            journal.add({"position": position, "text": "x" * 5000})
        assert sum(len(entry["text"]) for entry in journal) == 10_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 500_000
