"""Stages: the rule's table, how they are told, and that a network learns them."""

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from torch.nn import functional

from pneumo_nb.beyond import staging
from pneumo_nb.phantom.disease import ZONES, Disease
from pneumo_nb.settings import TrainSettings


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


def test_the_phantoms_stages_follow_the_rule():
    cases = [(zones * 2, 30.0 * (stage == 3)) for stage, kinds in enumerate(ZONES, start=1) for zones in kinds]
    profusion, largest = np.array([zones for zones, _ in cases]), np.array([size for _, size in cases])
    drawn = [Disease(zones, large=int(size > 0)).stage for zones, size in cases]
    assert staging.by_rule(profusion, largest).tolist() == drawn


def test_a_third_reading_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'all': zones or highest"):
        staging.by_rule(np.zeros((1, 6)), np.zeros(1), "all")


def test_stages_are_read_in_both_spellings_and_negatives_without_one_are_stage_0():
    manifest = pd.DataFrame({"label": list("110101"), "stage": ["II", "3+", "", "", "0", "IV"]})
    assert staging.known(manifest).tolist() == [2, 3, 0, -1, 0, 4]
    for without in (manifest.assign(stage=""), manifest.drop(columns="stage")):
        assert set(staging.known(without)) == {-1}


@pytest.mark.parametrize("outputs", [4, 3])
def test_a_network_learns_stages_the_same_way_twice(home, outputs):
    toy.prepared(images=18)
    data, stages = toy.load(), np.array([1, 0, 0, 3, 0, -1] * 3)
    settings = TrainSettings.of(
        image_size=32, epochs=1, batch_size=6, channels=1, model="densenet", depth=13, stem="7x7"
    )
    before = torch.get_rng_state()

    def loss(logits, truth):
        assert logits.shape[1] == outputs and (truth >= 0).all()  # none of unknown stage
        return functional.cross_entropy(logits, truth.clamp(max=outputs - 1))

    one, same = (
        staging.trained(settings, data, stages, torch.device("cpu"), loss, lambda logits: logits.argmax(dim=1), outputs)
        for _ in range(2)
    )
    assert one.shape == (18,) and (one == same).all() and set(one) <= set(range(outputs))
    assert torch.equal(before, torch.get_rng_state())
