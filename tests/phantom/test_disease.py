"""Lawful disease: stages, letters, zones and mixes as they are said, and who is ill depends on the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumo_nb.phantom import disease
from pneumo_nb.settings import PhantomSettings


def cases(mix: str, number: int = 400) -> list[disease.Disease]:
    return [disease.contracted(np.random.default_rng([7, index]), mix) for index in range(number)]


@pytest.mark.parametrize(
    ("profusion", "large", "stage"),
    [
        ((0, 0, 0, 0, 0, 0), 0, 0),
        ((1, 0, 0, 0, 0, 0), 0, 0),
        ((1, 0, 0, 1, 0, 0), 0, 1),
        ((2, 2, 0, 2, 2, 0), 0, 1),
        ((2, 2, 1, 2, 2, 2), 0, 2),
        ((3, 3, 0, 3, 3, 0), 0, 2),
        ((1, 0, 0, 1, 0, 0), 1, 3),
    ],
)
def test_stage_rule(profusion, large, stage):
    assert disease.Disease(profusion, large=large).stage == stage


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.integers(0, 5), st.integers(0, 2))
def test_more_disease_never_lowers_the_stage(profusion, zone, large):
    more = tuple(value + (place == zone) for place, value in enumerate(profusion))
    assert disease.Disease(more, large=large).stage >= disease.Disease(tuple(profusion), large=large).stage


@pytest.mark.parametrize("mix", disease.MIXES)
def test_stages_and_letters_have_the_shares_of_their_mix(mix):
    found = cases(mix)
    stages, letters = disease.MIXES[mix]
    assert sum(stages) == pytest.approx(1) and sum(letters) == pytest.approx(1)
    assert [np.mean([one.stage == stage for one in found]) for stage in (1, 2, 3)] == pytest.approx(stages, abs=0.07)
    assert [np.mean([one.letter == letter for one in found]) for letter in "pqr"] == pytest.approx(letters, abs=0.07)


@pytest.mark.parametrize("mix", disease.MIXES)
def test_upper_zones_come_before_middle_before_lower_and_only_stage_iii_has_large_opacities(mix):
    for one in cases(mix, 100):
        upper, middle, lower = np.add(one.profusion[:3], one.profusion[3:])
        assert upper >= middle >= lower and (one.large > 0) == (one.stage == 3)


def test_the_mixes_are_those_of_the_setting():
    assert tuple(disease.MIXES) == PhantomSettings.model_fields["mix"].annotation.__args__
    with pytest.raises(ValueError, match=r"mix = 'mild': one of marked, screening is right"):
        disease.refuse_mix("mild")


@given(st.integers(1, 300), st.data())
def test_labels_hold_exactly_the_positives(patients, data):
    positives = data.draw(st.integers(0, patients))
    found = disease.labels(patients, positives, seed=1)
    assert len(found) == patients and found.sum() == positives and set(found) <= {0, 1}


def test_order_of_the_labels_follows_from_the_seed():
    assert np.array_equal(disease.labels(706, 142, 0), disease.labels(706, 142, 0))
    assert not np.array_equal(disease.labels(706, 142, 0), disease.labels(706, 142, 1))
