from collections import Counter
from math import floor

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from pneumo_nb.prepare.splits import leak_groups, overlap, split
from pneumo_nb.settings import PrepareSettings

PAPER = ["0"] * 564 + ["1"] * 142  # Section 2.1: 706 radiographs, 142 of them positive


@pytest.mark.parametrize("way", ["paper", "patient"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_papers_706_images_fall_into_452_114_and_112_28(way, seed):
    parts = split(PAPER, [f"p{i}" for i in range(706)], PrepareSettings(split=way, split_seed=seed))
    assert Counter(zip(parts, PAPER, strict=True)) == {
        ("train", "0"): 452,
        ("train", "1"): 114,
        ("test", "0"): 112,
        ("test", "1"): 28,
    }


def test_the_seed_and_nothing_else_decides():
    patients = [f"p{i // 2}" for i in range(706)]
    first = split(PAPER, patients, PrepareSettings(split_seed=3))
    assert first == split(PAPER, patients, PrepareSettings(split_seed=3))
    assert first != split(PAPER, patients, PrepareSettings(split_seed=4))
    assert first == split(PAPER, ["other " + p for p in patients], PrepareSettings(split_seed=3))


@given(
    patients=st.lists(st.integers(0, 60), min_size=60, max_size=200),
    seed=st.integers(0, 99),
    fraction=st.sampled_from([0.1, 0.2, 0.25, 0.5]),
    validation=st.sampled_from([0.0, 0.1, 0.25]),
)
@budget(max_examples=60, deadline=None)
def test_a_split_by_patient_leaks_nobody_and_comes_near_the_fraction(patients, seed, fraction, validation):
    labels = [str(patient % 3 % 2) for patient in patients]
    settings = PrepareSettings(test_fraction=fraction, validation_fraction=validation, split_seed=seed)
    try:
        parts = split(labels, patients, settings)
    except ValueError as refusal:
        assert "too few" in str(refusal)
        return
    assert len(parts) == len(labels)
    assert all(len({part for q, part in zip(patients, parts, strict=True) if q == p}) == 1 for p in set(patients))
    assert overlap({"patient_id": patients, "split": parts}) == 0
    largest = max(Counter(patients).values())
    for label in "01":
        in_test = sum(part == "test" for part, a in zip(parts, labels, strict=True) if a == label)
        assert abs(in_test - floor(fraction * labels.count(label))) < largest


@given(st.integers(5, 80), st.integers(5, 80), st.integers(0, 9))
@budget(max_examples=40, deadline=None)
def test_a_split_by_image_takes_the_floor_of_each_class(negatives, positives, seed):
    labels = ["0"] * negatives + ["1"] * positives
    parts = split(labels, range(len(labels)), PrepareSettings(split="paper", split_seed=seed))
    for label, count in (("0", negatives), ("1", positives)):
        assert sum(p == "test" and a == label for p, a in zip(parts, labels, strict=True)) == count // 5


def test_patients_with_images_of_both_classes_stay_whole():
    labels, patients = ["0", "1"] * 20, [i // 2 for i in range(40)]
    parts = split(labels, patients, PrepareSettings())
    assert Counter(zip(parts, labels, strict=True)) == {
        ("train", "0"): 16,
        ("train", "1"): 16,
        ("test", "0"): 4,
        ("test", "1"): 4,
    }


def test_large_patients_are_split_by_the_smallest_rather_than_refused():
    labels, patients = ["0"] * 20 + ["1"] * 20, [i // 10 for i in range(40)]
    parts = split(labels, patients, PrepareSettings())
    assert Counter(parts) == {"train": 20, "test": 20}


@pytest.mark.parametrize(
    "way,message",
    [
        ("paper", "label 1 has 4 images"),
        ("patient", "label 1 has 4 images of 4 patients: .* raise test_fraction = 0.2"),
    ],
)
def test_a_class_too_small_to_split_is_named(way, message):
    with pytest.raises(ValueError, match=message):
        split(["0"] * 50 + ["1"] * 4, list(range(54)), PrepareSettings(split=way))


def test_one_patient_with_all_positives_cannot_be_split():
    with pytest.raises(ValueError, match=r"label 1 has 10 images of 1 patient: .* a column patient_id .* split=paper"):
        split(["0"] * 50 + ["1"] * 10, list(range(50)) + [99] * 10, PrepareSettings())


def test_copies_of_one_picture_are_named_as_the_cause():
    groups = leak_groups([f"p{i}" for i in range(40)], [f"picture {i}" for i in range(20)] + ["copy"] * 20)
    with pytest.raises(ValueError, match=r"label 1 has 20 images of 1 patient: .* or as copies"):
        split(["0"] * 20 + ["1"] * 20, groups, PrepareSettings())


def test_images_of_a_patient_or_of_one_picture_stay_together():
    groups = leak_groups(["a", "a", "b", "c", "d"], ["1", "2", "2", "3", "4"])
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 3


def test_overlap_counts_test_patients_seen_in_training_or_validation():
    parts = ["test", "train", "test", "validation", "test", "test", "train"]
    manifest = {"patient_id": list("aabbccd"), "split": parts}
    assert overlap(manifest) == 2
    assert overlap({"sha256": list("aabcdef"), "split": parts}, "sha256") == 1
