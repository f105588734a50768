"""Stages: the rule's table, the loss against its definition, and what kappa hides."""

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from pneumo_nb.beyond import staging
from pneumo_nb.phantom.disease import ZONES, stage_of
from pneumo_nb.settings import TrainSettings

STAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


@pytest.mark.parametrize(
    "zones, largest_mm, by_zones, by_highest",
    [
        ((0, 0, 0, 0, 0, 0), 0, 0, 0),
        ((1, 0, 0, 0, 0, 0), 0, 0, 0),
        ((1, 0, 0, 1, 0, 0), 0, 1, 1),
        ((2, 2, 1, 2, 2, 0), 0, 1, 2),
        ((2, 1, 1, 1, 1, 1), 0, 1, 2),  # where the readings part
        ((2, 2, 2, 2, 2, 0), 0, 2, 2),
        ((3, 3, 0, 3, 3, 0), 0, 2, 2),
        ((3, 3, 3, 3, 3, 3), 0, 2, 2),
        ((3, 3, 3, 3, 3, 0), 15, 3, 3),
        ((3, 3, 0, 3, 3, 0), 15, 2, 2),
        ((0, 0, 0, 0, 0, 0), 20, 3, 3),
    ],
)
def test_the_rule_in_both_readings(zones, largest_mm, by_zones, by_highest):
    for overall, stage in (("zones", by_zones), ("highest", by_highest)):
        assert staging.by_rule(np.array([zones]), np.array([largest_mm]), overall).tolist() == [stage]


def test_aggregation_makes_the_densest_lungs_stage_3():
    assert staging.by_rule(np.full((1, 6), 3), np.zeros(1), aggregated=True).tolist() == [3]


def test_the_phantoms_stages_follow_the_rule():
    cases = [(zones * 2, 30.0 * (stage == 3)) for stage, kinds in enumerate(ZONES, start=1) for zones in kinds]
    profusion, largest = np.array([zones for zones, _ in cases]), np.array([size for _, size in cases])
    drawn = [stage_of(zones, int(size > 0)) for zones, size in cases]
    assert staging.by_rule(profusion, largest).tolist() == drawn


def test_a_third_reading_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'all': zones or highest"):
        staging.by_rule(np.zeros((1, 6)), np.zeros(1), "all")


def test_stages_are_read_in_both_spellings_and_negatives_without_one_are_stage_0():
    manifest = pd.DataFrame({"label": list("110101"), "stage": ["II", "3+", "", "", "0", "IV"]})
    assert staging.known(manifest).tolist() == [2, 3, 0, -1, 0, 4]
    for without in (manifest.assign(stage=""), manifest.drop(columns="stage")):
        assert set(staging.known(without)) == {-1}


def test_corn_is_the_mean_of_the_questions_that_are_asked():
    logits, stages = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.4, 1.5]]), torch.tensor([0, 1, 2])
    p = logits.sigmoid()
    asked = [1 - p[0, 0], p[1, 0], 1 - p[1, 1], p[2, 0], p[2, 1]]  # the first is asked nothing beyond stage 0
    assert staging.corn(logits, stages).item() == pytest.approx(-torch.stack(asked).log().mean().item())


def test_corn_calls_the_last_stage_that_is_probably_passed():
    chances = torch.tensor([[0.4, 0.9], [0.9, 0.5], [0.8, 0.8]])
    assert staging.corn_stages(chances.logit()).tolist() == [0, 1, 2]


@given(STAGES)
def test_kappa_is_scikit_learns(pairs):
    stages, called = np.array(pairs).T
    ours = staging.kappa(stages, called)
    if ours == ours:
        assert ours == pytest.approx(cohen_kappa_score(stages, called, weights="quadratic", labels=range(4)))


def test_kappa_praises_a_yes_or_no_that_stages_nobody():
    stages = np.repeat([0, 1, 2, 3], [120, 4, 8, 18])
    normal, relabelled = staging.dummies(stages, stages > 0).values()
    assert staging.kappa(stages, normal) == 0
    assert staging.kappa(stages, relabelled) > 0.9
    assert staging.recalls(stages, relabelled)["found"].tolist() == [120, 0, 0, 18]
    assert np.isnan(staging.kappa(np.zeros(3, int), np.zeros(3, int)))


def test_recalls_and_the_confusion_matrix_count_the_same():
    stages, called = np.array([0, 0, 1, 3, 3]), np.array([0, 1, 1, 3, 2])
    counts, recalls = staging.confusion(stages, called), staging.recalls(stages, called).set_index("stage")
    assert counts.shape == (4, 4) and counts.to_numpy().sum() == 5 and counts.loc["III", "II"] == 1
    assert recalls["value"].to_dict() == {"0": 0.5, "I": 1, "III": 0.5}
    assert (recalls["low"] < recalls["value"]).all() and (recalls["high"] >= recalls["value"]).all()


def test_profusion_is_read_off_zones_of_patients_never_seen():
    random = np.random.default_rng(0)
    profusion = random.integers(0, 4, (40, 6))
    features = profusion[..., None] + random.normal(0, 0.3, (40, 6, 3))
    training = np.arange(30)
    found = staging.profusion_read(
        features, np.where(np.arange(40)[:, None] < 30, profusion, 0), training, np.arange(40)
    )
    assert found.shape == (40, 6) and (found == profusion)[30:].mean() > 0.8


@pytest.mark.parametrize("loss", staging.LOSSES)
def test_a_network_learns_stages_the_same_way_twice(home, loss, monkeypatch):
    toy.prepared(images=18)
    data, stages = toy.load(), np.array([1, 0, 0, 3, 0, 0] * 3)
    settings = TrainSettings.of(
        image_size=32, epochs=1, batch_size=6, channels=1, model="densenet", depth=13, stem="7x7"
    )
    before = torch.get_rng_state()
    one, same = (staging.trained(settings, data, stages, loss, torch.device("cpu")) for _ in range(2))
    assert one.shape == (18,) and (one == same).all() and set(one) <= {0, 1, 2, 3}
    assert torch.equal(before, torch.get_rng_state())
