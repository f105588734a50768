from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pneumo_nb import metrics
from pneumo_nb.results import comparisons

tallies = st.integers(0, 60)
p_values = st.lists(st.floats(0, 1), max_size=8)


@st.composite
def scored(draw):
    """Labels with two or more of each class, and two models' probabilities with ties."""
    size = draw(st.integers(4, 25))
    labels = [0, 0, 1, 1, *draw(st.lists(st.integers(0, 1), min_size=size - 4, max_size=size - 4))]
    probabilities = st.lists(st.integers(0, 6).map(lambda step: step / 6), min_size=size, max_size=size)
    return labels, draw(probabilities), draw(probabilities)


def test_mcnemar_on_agrestis_approval_ratings():
    # Agresti 1990, Categorical Data Analysis, p. 350: 150 and 86 of 1600 changed their minds; z squared is 17.36
    z_squared = (150 - 86) ** 2 / (150 + 86)
    assert z_squared == pytest.approx(17.36, abs=0.005)
    assert comparisons.mcnemar(150, 86) == pytest.approx(stats.chi2.sf(z_squared, 1), rel=0.3)


def test_mcnemar_by_hand():
    assert comparisons.mcnemar(2, 9) == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert comparisons.mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert comparisons.mcnemar(0, 0) == comparisons.mcnemar(4, 4) == 1


@given(tallies, tallies)
def test_mcnemar_does_not_ask_which_model_is_first(b, c):
    p = comparisons.mcnemar(b, c)
    assert p == comparisons.mcnemar(c, b) and 0 < p <= 1


@pytest.mark.parametrize(
    ("second", "first", "expected"),  # Newcombe 1998, Stat. Med. 17:873, Table II, examples (a) and (b), method 10
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))],
)
def test_newcombes_worked_examples(second, first, expected):
    assert comparisons.newcombe(*first, *second) == pytest.approx(expected, abs=5e-5)


@given(tallies, tallies, tallies, tallies)
def test_newcombes_interval_holds_the_difference_and_turns_with_it(first, missed, second, missed_second):
    trials, trials_second = first + missed, second + missed_second
    low, high = comparisons.newcombe(first, trials, second, trials_second)
    if not trials or not trials_second:
        assert isnan(low) and isnan(high)
    else:
        difference = second / trials_second - first / trials
        assert -1 - 1e-9 <= low <= difference + 1e-9 and difference - 1e-9 <= high <= 1 + 1e-9
        assert comparisons.newcombe(second, trials_second, first, trials) == pytest.approx((-high, -low))


def slow_delong(labels, first, second):
    """The definition of DeLong et al. 1988, Equations 3 to 6: placements by comparing every pair, their covariances."""
    positives = [i for i, label in enumerate(labels) if label]
    negatives = [i for i, label in enumerate(labels) if not label]
    v10, v01 = np.zeros((2, len(positives))), np.zeros((2, len(negatives)))
    for model, q in enumerate((first, second)):
        for i, positive in enumerate(positives):
            for j, negative in enumerate(negatives):
                won = 1 if q[positive] > q[negative] else 0.5 if q[positive] == q[negative] else 0
                v10[model, i] += won / len(negatives)
                v01[model, j] += won / len(positives)
    covariance = np.cov(v10) / len(positives) + np.cov(v01) / len(negatives)
    contrast = np.array([-1, 1])
    return contrast @ v10.mean(axis=1), contrast @ covariance @ contrast


@given(scored())
def test_delong_agrees_with_its_slow_definition(drawn):
    value, variance = slow_delong(*drawn)
    found = comparisons.delong(*drawn)
    assert found.value == pytest.approx(value)
    assert found.value == pytest.approx(metrics.auc(*drawn[::2]) - metrics.auc(*drawn[:2]))
    if variance < 1e-12:
        assert isnan(found.low) and isnan(found.high) and isnan(found.p)
    else:
        half = stats.norm.isf(0.025) * np.sqrt(variance)
        assert (found.low, found.high) == pytest.approx((value - half, value + half))
        assert found.p == pytest.approx(stats.chi2.sf(value**2 / variance, 1))


@given(scored())
def test_delong_turns_with_the_models_and_depends_on_ranks_only(drawn):
    labels, first, second = drawn
    found, turned = comparisons.delong(labels, first, second), comparisons.delong(labels, second, first)
    assert (found.value, found.low, found.p) == pytest.approx((-turned.value, -turned.high, turned.p), nan_ok=True)
    bent = comparisons.delong(labels, np.array(first) ** 3, np.exp(second))
    assert bent == pytest.approx(found, nan_ok=True)


def test_delong_is_undefined_for_one_ranking_and_for_too_few():
    labels, q = [0, 1, 0, 1, 1], [0.1, 0.4, 0.5, 0.6, 0.9]
    same = comparisons.delong(labels, q, q)
    assert same.value == 0 and isnan(same.p) and isnan(same.low)
    assert all(isnan(part) for part in comparisons.delong([0, 1, 1], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]))


def test_holm_by_his_rule():
    # .005 against .05 / 4, .01 against .05 / 3, .03 against .05 / 2: the first two are rejected, then it stops
    assert comparisons.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparisons.holm([0.6, 0.7]).tolist() == [1, 1] and comparisons.holm([]).size == 0


@given(p_values, st.floats(0.001, 0.2))
def test_holms_adjustment_rejects_what_his_sequential_rule_rejects(p, alpha):
    rejected = set()
    for step, place in enumerate(np.argsort(p)):  # Holm 1979: from the smallest on, until one is not small enough
        if p[place] * (len(p) - step) > alpha:
            break
        rejected.add(int(place))
    adjusted = comparisons.holm(p)
    assert set(np.flatnonzero(adjusted <= alpha).tolist()) == rejected
    assert (adjusted >= p).all() and (adjusted <= np.minimum(np.array(p) * len(p), 1) + 1e-12).all()


def test_one_image_a_patient_is_the_plain_bootstrap():
    values = np.random.default_rng(3).normal(size=40)
    found = comparisons.bootstrap(np.mean, range(40), values, draws=500, seed=7)
    plain = stats.bootstrap((values,), np.mean, n_resamples=500, method="percentile", rng=7).confidence_interval
    assert found == pytest.approx(tuple(plain))


def test_images_of_a_patient_stay_together():
    patients = np.repeat(["a", "b", "c"], (4, 1, 3))

    def whole_patients(owners):
        found, images = np.unique(owners, return_counts=True)
        assert all(count % {"a": 4, "b": 1, "c": 3}[name] == 0 for name, count in zip(found, images, strict=True))
        return float(len(owners))

    assert comparisons.bootstrap(whole_patients, patients, patients, draws=400) == (3, 12)


def test_copies_of_an_image_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=30)
    once = comparisons.bootstrap(np.mean, range(30), values, draws=300)
    copied = comparisons.bootstrap(np.mean, np.repeat(range(30), 5), np.repeat(values, 5), draws=300)
    assert copied == pytest.approx(once)


def test_draws_without_a_value_are_left_out():
    labels, q = [1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3]
    found = comparisons.bootstrap(metrics.auc, range(4), labels, q, draws=600, seed=1)
    assert found == (1, 1)  # of a third of the draws, one class is missing
    nothing = comparisons.bootstrap(metrics.auc, [1, 2], [0, 0], [0.1, 0.2], draws=10)
    assert all(map(isnan, nothing))


def test_the_bootstrap_repeats_itself_and_its_seed_matters():
    values = np.arange(20.0)
    first, again, other = (comparisons.bootstrap(np.mean, range(20), values, draws=50, seed=s) for s in (0, 0, 1))
    assert first == again != other
