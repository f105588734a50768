from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pneumo_nb import metrics
from pneumo_nb.metrics import Counts

small = st.integers(0, 200)
LABELS = [0, 0, 1, 1]
PROBABILITIES = [0.1, 0.4, 0.35, 0.8]


def test_table_1_on_the_papers_first_column():
    counts = Counts(tp=16, fp=3, fn=12, tn=109)
    values = (counts.accuracy, counts.precision, counts.recall, counts.f1, counts.specificity)
    assert values == pytest.approx((125 / 140, 16 / 19, 16 / 28, 32 / 47, 109 / 112))


def test_what_is_undefined_is_not_zero():
    nothing_called = Counts(tp=0, fp=0, fn=28, tn=112)
    assert isnan(nothing_called.precision) and isnan(nothing_called.f1) and nothing_called.recall == 0
    assert all(isnan(value) for value in nothing_called.interval("precision"))
    empty = Counts(0, 0, 0, 0)
    assert isnan(empty.accuracy) and isnan(empty.recall) and isnan(empty.specificity)
    assert isnan(metrics.auc([1, 1], [0.2, 0.4]))


@pytest.mark.parametrize(
    ("metric", "expected"),  # the audit of the paper, ResNet34 at n = 1: rounded to three places
    [
        ("accuracy", (0.831, 0.934)),
        ("recall", (0.391, 0.735)),
        ("precision", (0.624, 0.945)),
        ("specificity", (0.924, 0.991)),
    ],
)
def test_wilson_intervals_of_the_papers_first_column(metric, expected):
    assert Counts(16, 3, 12, 109).interval(metric) == pytest.approx(expected, abs=0.0005)


def test_wilson_agrees_with_newcombes_worked_example():
    # Newcombe 1998, Stat. Med. 17:857, Table I: 81 of 263, score method without continuity correction
    assert metrics.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(small, small, small, small)
def test_counts_and_metrics_obey_their_definitions(tp, fp, fn, tn):
    labels = [1] * tp + [0] * fp + [1] * fn + [0] * tn
    called = [True] * (tp + fp) + [False] * (fn + tn)
    counts = Counts.of(labels, called)
    assert counts == Counts(tp, fp, fn, tn) and counts.images == len(labels)
    for name in ("accuracy", "precision", "recall", "specificity"):
        value, (low, high) = getattr(counts, name), counts.interval(name)
        if not isnan(value):
            assert low + 1e-9 >= 0 and low - 1e-9 <= value <= high + 1e-9 and high <= 1 + 1e-9
    if tp:
        assert counts.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_threshold_rules_choose_by_their_definition():
    labels, probabilities = [0, 0, 0, 1, 1, 0, 1], [0.1, 0.2, 0.3, 0.35, 0.6, 0.7, 0.9]
    assert metrics.choose_threshold(labels, probabilities, "youden") == 0.35
    assert metrics.choose_threshold(labels, probabilities, "recall90") == 0.35
    assert metrics.choose_threshold([0, 0, 1], [0.7, 0.8, 0.2], "youden") == 0.2  # no calls would be the best: infinity
    with pytest.raises(ValueError, match="both classes"):
        metrics.choose_threshold([1, 1], [0.1, 0.2], "youden")
    with pytest.raises(ValueError, match="recall90"):
        metrics.choose_threshold([0, 1], [0.1, 0.2], "best")


@pytest.mark.parametrize(
    ("counts", "balanced_accuracy", "mcc"),  # the audit of the paper, rounded to three places
    [((16, 3, 12, 109), 0.772, 0.636), ((18, 8, 10, 104), 0.786, 0.588), ((15, 10, 13, 102), 0.723, 0.466)],
)
def test_balanced_accuracy_and_mcc_of_the_papers_columns(counts, balanced_accuracy, mcc):
    found = Counts(*counts)
    assert (found.balanced_accuracy, found.mcc) == pytest.approx((balanced_accuracy, mcc), abs=0.0005)
    assert found.row()["mcc"] == found.mcc and found.row()["balanced_accuracy"] == found.balanced_accuracy


@given(small, small, small, small)
def test_mcc_changes_its_sign_with_the_calls_and_is_the_correlation(tp, fp, fn, tn):
    mcc, reversed_calls = Counts(tp, fp, fn, tn).mcc, Counts(fn, tn, tp, fp).mcc
    labels, called = [1] * tp + [0] * fp + [1] * fn + [0] * tn, [1] * (tp + fp) + [0] * (fn + tn)
    if len(set(labels)) < 2 or len(set(called)) < 2:
        assert isnan(mcc) and isnan(reversed_calls)
    else:
        assert mcc == pytest.approx(-reversed_calls) == pytest.approx(np.corrcoef(labels, called)[0, 1])


def test_balanced_accuracy_is_undefined_without_both_classes():
    assert isnan(Counts(3, 0, 1, 0).balanced_accuracy) and isnan(Counts(0, 1, 0, 4).balanced_accuracy)
    assert Counts(0, 0, 28, 112).balanced_accuracy == 0.5


def test_average_precision_agrees_with_the_sum_of_its_steps():
    # from the highest probability on: recall 1/2 at precision 1/1, then recall 1 at precision 2/3
    assert metrics.average_precision(LABELS, PROBABILITIES) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_the_curves_pass_through_the_counts_at_each_threshold():
    roc, curve = metrics.roc(LABELS, PROBABILITIES), metrics.precision_recall(LABELS, PROBABILITIES)
    for row in roc.to_dict("records"):
        counts = Counts.of(LABELS, np.array(PROBABILITIES) >= row["threshold"])
        assert (counts.recall, 1 - counts.specificity) == (row["recall"], row["false_positive_rate"])
    for row in curve.iloc[:-1].to_dict("records"):
        counts = Counts.of(LABELS, np.array(PROBABILITIES) >= row["threshold"])
        assert (counts.recall, counts.precision) == (row["recall"], row["precision"])
    assert curve.iloc[-1].tolist() == [0, 1, np.inf]
    assert np.trapezoid(roc["recall"], roc["false_positive_rate"]) == pytest.approx(metrics.auc(LABELS, PROBABILITIES))


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_one_class_has_no_curves_and_no_area(labels):
    probabilities = [0.2, 0.7][: len(labels)]
    assert isnan(metrics.auc(labels, probabilities)) and isnan(metrics.average_precision(labels, probabilities))
    assert metrics.roc(labels, probabilities).empty and metrics.precision_recall(labels, probabilities).empty


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=30))
def test_auc_agrees_with_scikit_learn(images):
    labels, steps = zip(*images, strict=True)
    if len(set(labels)) < 2:
        assert isnan(metrics.auc(labels, steps))
    else:
        assert metrics.auc(labels, steps) == pytest.approx(roc_auc_score(labels, steps))


def test_brier_score_by_hand():
    assert metrics.brier(LABELS, PROBABILITIES) == pytest.approx((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4)
    assert metrics.brier([0, 0], [0.5, 0.1]) == pytest.approx((0.25 + 0.01) / 2)
    assert isnan(metrics.brier([], []))


def test_reliability_counts_each_image_once_in_the_bin_of_its_probability():
    labels, probabilities = [0, 1, 0, 1, 1], [0.0, 0.1, 0.5, 0.99, 1.0]
    curve = metrics.reliability(labels, probabilities, bins=2)
    assert curve["images"].tolist() == [2, 3] and curve["observed"].tolist() == [1 / 2, 2 / 3]
    assert curve["predicted"].tolist() == pytest.approx([0.05, 0.83])
    assert (curve.loc[1, "low"], curve.loc[1, "high"]) == metrics.wilson(2, 3)
    assert metrics.reliability(labels, probabilities, bins=10)["images"].sum() == 5


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_reliability_refuses_what_is_no_probability(wrong):
    with pytest.raises(ValueError, match="from 0 to 1"):
        metrics.reliability([0, 1], [0.5, wrong])


@given(st.floats(0.001, 0.999), st.floats(0.1, 20))
def test_the_corrected_logit_undoes_the_weighting_of_positives(truth, ratio):
    weighted = ratio * truth / (ratio * truth + 1 - truth)  # what minimises the weighted cross entropy
    assert metrics.correct_logit([weighted], ratio)[0] == pytest.approx(truth)


def test_a_corrected_logit_keeps_certainty_and_the_ranking():
    corrected = metrics.correct_logit([0.0, 0.3, 0.6, 1.0], 5)
    assert corrected[0] == 0 and corrected[-1] == 1 and (np.diff(corrected) > 0).all()
    assert metrics.correct_logit([5 / 6], 5)[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="above 0"):
        metrics.correct_logit([0.5], 0)


@pytest.mark.parametrize("unknown", [0, 3])
def test_an_area_over_a_probability_that_is_not_a_number_is_undefined(unknown):
    probabilities = [0.1, 0.4, 0.3, 0.9]
    assert metrics.auc([0, 1, 0, 1], probabilities) == 1
    probabilities[unknown] = np.nan
    assert np.isnan(metrics.auc([0, 1, 0, 1], probabilities))
