"""A radiograph keeps its word: it follows from its seed, shows a chest and its disease, and leaves no way to cheat."""

from functools import cache

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_nb.phantom import disease, radiograph

SMALL = {"width": 128, "height": 132}
MIDDLE = {"width": 330, "height": 341}


@cache
def case(index: int, positive: bool = True, width: int = 330, height: int = 341, seed: int = 0) -> radiograph.Phantom:
    return radiograph.render(index, positive, width, height, seed)


def dense_is_white(one: radiograph.Phantom) -> np.ndarray:
    return one.pixels if one.photometric == "MONOCHROME2" else 4095 - one.pixels


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


def test_only_positives_have_opacities_and_a_stage():
    for index in range(6):
        ill, well = case(index, True), case(index, False)
        assert well.disease == disease.Disease() and not well.opacities.any() and not len(well.diameters_mm)
        assert ill.disease.stage in (1, 2, 3) and ill.opacities.any()


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
        low, high = disease.LETTERS[ill.disease.letter]
        large = ill.diameters_mm[ill.diameters_mm > 10]
        small = ill.diameters_mm[ill.diameters_mm <= 10]
        assert (low <= small).all() and (small <= high).all()
        assert (len(large) > 0) == (ill.disease.stage == 3) and (large <= 50).all()


def test_masks_show_the_sizes_that_the_radiograph_says():
    for index in range(8):
        ill = case(index, True, 694, 719)
        if ill.disease.stage == 1:
            _, _, stats, _ = cv2.connectedComponentsWithStats(ill.opacities.astype(np.uint8))
            widths = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1) * ill.spacing_mm
            assert np.median(widths) < ill.diameters_mm.max() + 2 * ill.spacing_mm


def test_upper_zones_come_first():
    shares = []
    for index in range(40):
        ill = case(index, True, **SMALL)
        upper, middle, lower = np.add(ill.disease.profusion[:3], ill.disease.profusion[3:])
        assert upper >= middle >= lower
        rows = np.flatnonzero(ill.lungs.any(1))
        half = (rows[0] + rows[-1]) // 2
        shares.append(
            ill.opacities[:half].sum() / ill.lungs[:half].sum() > ill.opacities[half:].sum() / ill.lungs[half:].sum()
        )
    assert np.mean(shares) > 0.7


def test_about_a_third_is_monochrome1():
    kinds = [case(index, True, **SMALL).photometric for index in range(40)]
    assert 0.18 < kinds.count("MONOCHROME1") / 40 < 0.5


# A fair task


def shallow_auc(pictures: list[np.ndarray], truth: np.ndarray) -> float:
    """AUC of a logistic regression on the histogram (64 bins) and the mean, 5-fold, mean of 3 shuffles."""
    features = np.array([np.append(np.histogram(p, 64, (0, 256))[0] / p.size, p.mean()) for p in pictures])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = (StratifiedKFold(5, shuffle=True, random_state=state) for state in range(3))
    scores = (cross_val_predict(model, features, truth, cv=fold, method="decision_function") for fold in folds)
    return float(np.mean([roc_auc_score(truth, score) for score in scores]))


def as_prepared(one: radiograph.Phantom, downsize: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """8 bits by the window, and the same equalised, each a quarter of the size."""
    centre, width = one.window
    grey = np.clip((one.pixels - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    grey = np.uint8(255 * (1 - grey if one.photometric == "MONOCHROME1" else grey))
    size = (grey.shape[1] // downsize, grey.shape[0] // downsize)
    return tuple(cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (grey, cv2.equalizeHist(grey)))


@pytest.mark.parametrize("mix", disease.MIXES)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_grey_levels_alone_do_not_give_the_label_away(seed, mix):
    truth = disease.labels(120, 40, seed)
    ill = enumerate(truth.astype(bool))
    pictures = [as_prepared(radiograph.render(index, positive, 256, 264, seed, mix)) for index, positive in ill]
    for kind in zip(*pictures, strict=True):
        assert shallow_auc(list(kind), truth) < 0.65


def test_no_grey_level_is_a_plateau_below_the_diaphragm():
    for index in range(12):
        one = case(index, False, 256, 264)
        equalised = as_prepared(one, 1)[1]
        rows, columns = np.flatnonzero(one.lungs.any(1)), np.flatnonzero(one.lungs.any(0))
        below = equalised[rows[-1] + 4 : -13, columns[0] : columns[-1]]  # without the lead of the collimator
        assert np.bincount(below.ravel(), minlength=256)[230:].max() < 0.2 * below.size
        assert (equalised == 255).mean() < 0.02


def test_the_mix_changes_the_disease_and_nothing_else():
    marked, screening = (radiograph.render(1, True, **SMALL, mix=mix) for mix in disease.MIXES)
    assert marked.disease != screening.disease and np.array_equal(marked.lungs, screening.lungs)
    assert (marked.photometric, marked.window, marked.sex) == (screening.photometric, screening.window, screening.sex)
    healthy = [radiograph.render(1, False, **SMALL, mix=mix).pixels for mix in disease.MIXES]
    assert np.array_equal(*healthy)
