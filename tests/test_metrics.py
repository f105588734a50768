from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumo_nb import metrics
from pneumo_nb.metrics import Counts

small = st.integers(0, 200)


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
    with pytest.raises(ValueError, match="both classes"):
        metrics.choose_threshold([1, 1], [0.1, 0.2], "youden")
    with pytest.raises(ValueError, match="recall90"):
        metrics.choose_threshold([0, 1], [0.1, 0.2], "best")
