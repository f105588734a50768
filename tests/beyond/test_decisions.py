"""Calibration, thresholds with a guarantee and net benefit against what can be computed apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm

from pneumo_nb import metrics
from pneumo_nb.beyond import decisions

THRESHOLDS = [0.05, 0.1, 0.2, 0.35, 0.5, 0.8]
# dcurves 1.1.7 on the set below; it would bring lifelines, statsmodels and an older pandas, so it is no dependency.
DCURVES = [0.2631578947368421, 0.22407407407407406, 0.13333333333333336, 0.12564102564102564, 0.1, 1 / 60]
DCURVES_ALL = [0.2631578947368421, 0.2222222222222222, 0.125, -0.07692307692307687, -0.4, -2.5]


def probabilities_too_high(images=20_000, slope=1.0, shift=1.5, seed=0):
    """Labels, and probabilities whose logits are `slope` times the true ones and `shift` higher."""
    random = np.random.default_rng(seed)
    true = random.normal(-1, 1.5, images)
    return (random.random(images) < expit(true)).astype(int), expit(slope * true + shift)


def of_dcurves():
    random = np.random.default_rng(7)
    labels = random.random(60) < 0.3
    return labels, np.round(1 / (1 + np.exp(-(random.normal(size=60) + 1.2 * labels - 1))), 2)


def test_net_benefit_is_that_of_dcurves():
    curve = decisions.net_benefit(*of_dcurves(), THRESHOLDS, draws=10)
    assert curve["net_benefit"].to_numpy() == pytest.approx(DCURVES, abs=1e-12)
    assert curve["treat_all"].to_numpy() == pytest.approx(DCURVES_ALL, abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_net_benefit_is_its_formula(images, threshold):
    labels, probabilities = zip(*images, strict=True)
    counts = metrics.Counts.of(labels, np.array(probabilities) >= threshold)
    by_hand = counts.tp / counts.images - counts.fp / counts.images * threshold / (1 - threshold)
    curve = decisions.net_benefit(labels, probabilities, [threshold], draws=2)
    assert curve["net_benefit"][0] == pytest.approx(by_hand, abs=1e-12)


def test_whoever_calls_all_or_none_gets_the_benefit_of_it():
    labels, same = np.arange(10) < 3, np.ones(10)
    everybody = decisions.net_benefit(labels, same, [0.2, 0.6], draws=5)
    assert everybody["net_benefit"].to_numpy() == pytest.approx(everybody["treat_all"].to_numpy(), abs=1e-12)
    nobody = decisions.net_benefit(labels, same * 0, [0.2, 0.6], draws=5)
    assert (nobody[["net_benefit", "treat_none", "low", "high"]] == 0).all(axis=None)


def test_patients_are_drawn_with_all_of_their_radiographs():
    labels, probabilities = of_dcurves()
    alone = decisions.net_benefit(labels, probabilities, [0.2])
    four_each = decisions.net_benefit(
        labels.repeat(4), probabilities.repeat(4), [0.2], patients=np.arange(60).repeat(4)
    )
    taken_apart = decisions.net_benefit(labels.repeat(4), probabilities.repeat(4), [0.2])
    width = [float((curve["high"] - curve["low"])[0]) for curve in (alone, four_each, taken_apart)]
    assert width[1] == pytest.approx(width[0], rel=0.15) and width[2] < 0.7 * width[1]
    assert (four_each["low"] <= alone["net_benefit"]).all() and (alone["net_benefit"] <= four_each["high"]).all()


@pytest.mark.parametrize("threshold", [0, 1, np.nan])
def test_a_threshold_without_odds_is_refused(threshold):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        decisions.net_benefit([0, 1], [0.2, 0.8], [0.5, threshold])


@pytest.mark.parametrize(("positives", "misses"), [(29, 0), (46, 1), (100, 4), (142, 8)])
def test_how_many_patients_a_guaranteed_threshold_may_miss(positives, misses):
    assert decisions.misses_allowed(positives) == misses
    scores = np.random.default_rng(0).permutation(positives) / positives
    threshold = decisions.guaranteed([1] * positives + [0], [*scores, 0.5])
    assert (scores < threshold).sum() == misses


def test_28_patients_cannot_carry_the_guarantee_and_29_are_the_least():
    with pytest.raises(ValueError, match=r"28 radiographs .* 29 are the least"):
        decisions.guaranteed([1] * 28 + [0] * 500, np.linspace(0, 1, 528))
    with pytest.raises(ValueError, match=r"^0 radiographs"):
        decisions.guaranteed([0] * 50, np.linspace(0, 1, 50))


@pytest.mark.parametrize("positives", [29, 60, 142])
def test_the_guarantee_fails_in_at_most_5_percent_of_2000_sets(positives):
    random, sets = np.random.default_rng(positives), 2000
    scores = random.normal(1, 1, (sets, positives))
    found = norm.sf([decisions.guaranteed([1] * positives, of_one) for of_one in scores], loc=1)
    failed = np.mean(found < 0.9)
    assert 0.01 < failed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / sets)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0))
def test_the_uncertain_zone_lies_between_two_guarantees(seed, apart):
    random = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [60, 90])
    scores = expit(random.normal(0, 1, 150) + apart * labels)
    low, high = decisions.zone(labels, scores)
    assert low <= high and low == decisions.guaranteed(labels, scores)
    assert (scores[labels == 0] >= high).sum() <= decisions.misses_allowed(90)
    if low < high:  # no lower one spares as many
        assert (scores[labels == 0] >= np.nextafter(high, 0)).sum() == decisions.misses_allowed(90) + 1


def test_each_calibration_brings_shifted_probabilities_back():
    labels, probabilities = probabilities_too_high()
    fresh_labels, fresh = probabilities_too_high(seed=1)
    before = metrics.brier(fresh_labels, fresh)
    for method in decisions.METHODS:
        calibrated = decisions.calibration(method, labels, probabilities)(fresh)
        assert metrics.brier(fresh_labels, calibrated) < before - 0.03, method
        slope, intercept = decisions.slope_and_intercept(fresh_labels, calibrated)
        assert intercept == pytest.approx(0, abs=0.06) and slope == pytest.approx(1, abs=0.1), method


def test_slope_and_intercept_are_those_that_the_probabilities_were_made_with():
    assert decisions.slope_and_intercept(*probabilities_too_high(slope=1, shift=1.5)) == pytest.approx(
        (1, -1.5), abs=0.06
    )
    slope, _ = decisions.slope_and_intercept(*probabilities_too_high(slope=2, shift=0))
    assert slope == pytest.approx(0.5, abs=0.03)


def test_the_shift_expects_as_many_as_there_are():
    labels, probabilities = probabilities_too_high(images=200)
    shifted = decisions.calibration("shift", labels, probabilities)(probabilities)
    assert shifted.mean() == pytest.approx(labels.mean(), abs=1e-9)
    moved = logit(shifted) - logit(probabilities)
    assert moved == pytest.approx(np.full(200, moved[0]), abs=1e-9)


def test_classes_that_do_not_overlap_and_rounded_probabilities_stay_finite():
    labels, sure = [0, 0, 0, 1, 1, 1], [0.0, 0.0, 1e-9, 1 - 1e-9, 1.0, 1.0]
    calibrated = decisions.calibration("platt", labels, sure)(sure)
    assert ((calibrated > 0) & (calibrated < 1)).all()
    slope, intercept = decisions.slope_and_intercept(labels, sure)
    assert np.isnan(slope) and intercept == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", decisions.METHODS)
def test_one_class_calibrates_nothing(method):
    with pytest.raises(ValueError, match=f"'{method}' needs both classes; it got 0 positive and 3 negative"):
        decisions.calibration(method, [0, 0, 0], [0.1, 0.2, 0.3])
    assert np.isnan(decisions.slope_and_intercept([0, 0, 0], [0.1, 0.2, 0.3])).all()


def test_an_unknown_calibration_is_named():
    with pytest.raises(ValueError, match="no calibration 'beta'; they are platt, isotonic, shift"):
        decisions.calibration("beta", [0, 1], [0.1, 0.2])
