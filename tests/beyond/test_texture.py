"""Texture: numbers known by hand, laws, and a control that must find nothing."""

import cv2
import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from pneumo_nb.beyond import texture

# The worked example of Haralick et al. 1973, IEEE Trans. Syst. Man Cybern. 3:610, Figure 3.
HARALICK = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 2], [2, 2, 3, 3]])
PRINTED = {
    0: [[4, 2, 1, 0], [2, 4, 0, 0], [1, 0, 6, 1], [0, 0, 1, 2]],
    45: [[4, 1, 0, 0], [1, 2, 2, 0], [0, 2, 4, 1], [0, 0, 1, 0]],
    90: [[6, 0, 2, 0], [0, 4, 2, 0], [2, 2, 2, 2], [0, 0, 2, 0]],
    135: [[2, 1, 3, 0], [1, 2, 1, 0], [3, 1, 0, 2], [0, 0, 2, 0]],
}
EVERYWHERE = np.ones((4, 4), bool)
IMAGES = arrays(np.float64, (8, 8), elements=st.floats(0, 1, width=32))


@pytest.mark.parametrize(
    "step, printed", list(zip(texture.STEPS, PRINTED.values(), strict=True)), ids=map(str, PRINTED)
)
def test_co_occurrence_is_that_of_haralicks_worked_example(step, printed):
    assert texture.co_occurrence(HARALICK, EVERYWHERE, step, grey=4).tolist() == printed


def test_co_occurrence_counts_within_the_mask_alone():
    upper = np.arange(4)[:, None] < 2 + np.zeros(4, int)
    found = texture.co_occurrence(HARALICK, upper, (0, 1), grey=4)
    assert found.tolist() == [[4, 2, 0, 0], [2, 4, 0, 0], [0] * 4, [0] * 4]


def test_haralicks_numbers_of_a_checkerboard_and_of_a_plain_image():
    board = np.indices((4, 4)).sum(axis=0) % 2
    beside = texture.haralick(texture.co_occurrence(board, EVERYWHERE, (0, 1), grey=2))
    assert beside.tolist() == [0.5, 1.0, 0.5, -1.0, 1.0]  # energy, entropy, homogeneity, correlation, inertia
    _, _, homogeneity, _, inertia = texture.haralick(np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]]))
    assert (homogeneity, inertia) == (1 / 5, 4)  # two levels apart
    plain = texture.haralick(texture.co_occurrence(board * 0, EVERYWHERE, (0, 1), grey=2))
    assert plain.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]


def test_run_lengths_by_hand_along_rows_and_columns_within_a_mask():
    across = texture.run_lengths(HARALICK, EVERYWHERE, (0, 1), grey=4)
    assert across.tolist() == [[1, 2, 0], [0, 2, 0], [0, 1, 1], [0, 1, 0]]
    up = texture.run_lengths(HARALICK, EVERYWHERE, (-1, 0), grey=4)
    assert up.tolist() == [[0, 1, 1], [0, 2, 0], [3, 1, 0], [2, 0, 0]]
    right = EVERYWHERE & (np.arange(4) >= 2)
    assert texture.run_lengths(HARALICK, right, (0, 1), grey=4).tolist() == [[0, 0], [0, 2], [0, 1], [0, 1]]


@given(arrays(np.int64, (6, 6), elements=st.integers(0, 3)), arrays(bool, (6, 6)), st.sampled_from(texture.STEPS))
def test_runs_hold_every_pixel_of_the_mask_once(levels, mask, step):
    found = texture.run_lengths(levels, mask, step, grey=4)
    pixels = (found * np.arange(1, found.shape[1] + 1)).sum(axis=1)
    assert pixels.tolist() == np.bincount(levels[mask], minlength=4).tolist()


def test_galloways_numbers_of_single_pixels_and_of_one_run():
    singles = np.array([[4], [4]])
    assert texture.galloway(singles).tolist() == [1, 1, 4, 8, 1]
    assert texture.galloway(np.array([[0, 0, 0, 1]])).tolist() == [1 / 16, 16, 1, 1, 1 / 4]


@given(IMAGES, st.integers(0, 3))
def test_wavelet_energies_sum_to_the_images(image, levels):
    coefficients = texture.haar(image, levels)
    assert coefficients.shape == (3 * levels + 1, 8, 8)
    assert (coefficients**2).mean(axis=(1, 2)).sum() == pytest.approx((image**2).mean())


def test_stripes_of_one_pixel_are_in_the_first_level_of_their_direction():
    stripes = np.indices((8, 8))[1] % 2.0
    energies = (texture.haar(stripes, 3) ** 2).mean(axis=(1, 2))
    assert energies[[0, -1]].tolist() == [0.25, 0.25] and not energies[1:-1].any()
    twice_as_wide = np.indices((8, 8))[1] // 2 % 2.0
    energies = (texture.haar(twice_as_wide, 3) ** 2).mean(axis=(1, 2))
    assert energies.tolist() == [0.125, 0, 0, 0.125, 0, 0, 0, 0, 0, 0.25]


def test_the_bank_has_37_images_that_see_a_slope_and_no_curvature_in_a_ramp():
    ramp = np.indices((9, 9))[1] / 10
    bank = texture.differences(ramp)[:, 2:-2, 2:-2]
    angles = np.arange(9) * np.pi / 9
    assert bank.shape == (37, 5, 5)
    assert np.allclose(bank[1:19:2], 0.1 * np.cos(angles)[:, None, None])  # distance 1, first order
    assert np.allclose(bank[2::2], 0)


def test_statistics_of_two_values_in_equal_shares_and_of_one_value():
    values = np.array([[0.0, 1.0] * 8, [0.5] * 16])
    assert np.allclose(texture.statistics(values), [[0.5, 0.5, 0, -2, 0.5, 1], [0.5, 0, 0, 0, 1, 0]])


def test_zones_are_thirds_of_each_lung_and_leave_nothing_out():
    lungs = np.zeros((12, 12), bool)
    lungs[0:9, 1:5] = lungs[3:12, 7:11] = True
    found = texture.zones(lungs)
    assert (found.sum(axis=0) == lungs).all()
    assert [np.flatnonzero(zone.any(1)).tolist() for zone in found] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [3, 4, 5], [6, 7, 8], [9, 10, 11],
    ]  # fmt: skip
    assert not found[:3, :, 6:].any() and not found[3:, :, :6].any()


def test_lung_fields_are_the_two_dark_places_of_a_bright_chest():
    y, x = np.indices((64, 64)) / 64
    lungs = np.any([((y - 0.42) / 0.25) ** 2 + ((x - at) / 0.11) ** 2 < 1 for at in (0.3, 0.7)], axis=0)
    found = texture.lung_fields(np.where(lungs, 0.3, 0.8) * ((x > 0.05) & (x < 0.95)))
    assert (found & lungs).sum() > 0.9 * lungs.sum() and (found & ~lungs).sum() < 0.1 * lungs.sum()


@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (64, 64), (90, 60)])
def test_no_zone_is_empty_whatever_the_picture(shape):
    noise = (np.random.default_rng(seed).random(shape) for seed in range(30))
    for picture in (np.zeros(shape), np.ones(shape), *noise):
        fields = texture.lung_fields(picture)
        assert fields.shape == shape and texture.zones(fields).any(axis=(1, 2)).all()


def test_on_real_films_the_rule_finds_two_lungs_darker_than_what_lies_between(shared):
    fitting = []
    for file in sorted((shared / "data" / "nih-cxr" / "images").glob("*.jpg"))[::8]:
        image = cv2.resize(cv2.equalizeHist(cv2.imread(str(file), 0)), (64, 64), interpolation=cv2.INTER_AREA) / 255
        parts = texture.zones(texture.lung_fields(image))
        assert parts.any(axis=(1, 2)).all()
        darker = image[parts.any(axis=0)].mean() < image[10:45, 29:35].mean() - 0.1
        fitting.append(darker and 0.08 < parts.any(axis=0).mean() < 0.35)
    assert len(fitting) == 25 and np.mean(fitting) >= 0.8


def test_a_dataset_is_described_by_its_masks_or_by_the_rule_and_says_which(home):
    toy.prepared(images=6)
    by_rule, whose = texture.described(toy.load())
    assert whose == ["rule"] * 6
    assert {name: values.shape for name, values in by_rule.items()} == {
        "wavelet": (6, 6, 16), "filter bank": (6, 6, 222), "co-occurrence": (6, 6, 20), "run length": (6, 6, 20),
    }  # fmt: skip
    assert all(np.isfinite(values).all() for values in by_rule.values())
    toy.masks(images=6)
    assert texture.described(toy.load())[1] == ["mask"] * 6


def noise(informative: bool, patients: int = 40):
    """Two images a patient, with a mark of the patient, and one of the label or none."""
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(patients), 2)
    labels = owner % 2
    features = random.normal(size=(patients, 5))[owner] + 0.01 * random.normal(size=(2 * patients, 5))
    features[:, 0] += 3 * labels * informative
    return features, labels, owner.astype(str)


@pytest.mark.parametrize("classifier, values", [(SVC(), {"C": (0.1, 1)}), (LogisticRegression(), {"C": (0.1, 1)})])
def test_a_classifier_finds_a_mark(classifier, values):
    features, labels, patients = noise(informative=True)
    model = texture.chosen(classifier, values, features, labels, patients)
    assert model.best_score_ > 0.8 and (model.predict(features) == labels).mean() > 0.8
    assert model.best_params_.keys() == {"classifier__C"} and model.n_splits_ == texture.FOLDS


def test_permuted_labels_are_not_found_though_each_patient_has_a_twin():
    features, labels, patients = noise(informative=False)
    found = [
        texture.chosen(
            SVC(), {"C": (1, 10)}, features, np.random.default_rng(seed).permutation(labels[::2]).repeat(2), patients
        )
        for seed in range(3)
    ]
    assert np.mean([model.best_score_ for model in found]) < 0.65  # not grouped by patient it is 1


def test_no_fold_has_one_class_only_and_where_two_are_too_many_it_is_said():
    features, labels, patients = noise(informative=True)
    both = np.flatnonzero(np.isin(patients, ["0", "1", "2", "3", "5"]))  # two patients without the mark, three with it
    assert texture.chosen(SVC(), {"C": (1,)}, features[both], labels[both], patients[both]).n_splits_ == 2
    for owners, fewest in ((np.where(labels, "p", patients), 1), (np.full(len(labels), "p"), 1)):
        with pytest.raises(ValueError, match=f"a class of the training set has {fewest} patients"):
            texture.chosen(SVC(), {"C": (1,)}, features, labels, owners)
    with pytest.raises(ValueError, match="0 patients"):
        texture.chosen(SVC(), {"C": (1,)}, features, labels * 0, patients)


def test_the_reading_of_grades_is_chosen_among_folds_by_patient_too():
    random = np.random.default_rng(0)
    grades = random.integers(0, 4, 240)
    features = grades[:, None] + random.normal(0, 0.3, (240, 3))
    owners = np.arange(40).repeat(6)
    model = texture.chosen(
        LogisticRegression(), {"C": (0.1, 1)}, features[:180], grades[:180], owners[:180], "neg_mean_absolute_error"
    )
    assert (model.predict(features[180:]) == grades[180:]).mean() > 0.8
