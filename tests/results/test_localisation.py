import numpy as np
import pandas as pd
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pneumo_nb.results import localisation

SIDE = 16
LUNGS = np.zeros((SIDE, SIDE), bool)
LUNGS[2:14, 2:14] = True
OPACITIES = np.zeros((SIDE, SIDE), bool)
OPACITIES[4:7, 4:8] = True
MASKS = {"lungs": LUNGS, "opacities": OPACITIES}
SHARE = OPACITIES.sum() / LUNGS.sum()


def dice(called, inside):
    return 2 * (called & inside).sum() / (called.sum() + inside.sum())


pixels = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


@given(pixels)
def test_separation_is_sklearns_area_and_the_best_dice_of_all_thresholds(pixels):
    values, inside = (np.array(column) for column in zip(*pixels, strict=True))
    found = localisation.separation(values.astype(np.float32), inside)
    if inside.all() or not inside.any():
        assert np.isnan(list(found.values())).all()
        return
    assert found["auc"] == pytest.approx(roc_auc_score(inside, values))
    assert found["auc_inverted"] == pytest.approx(roc_auc_score(inside, -values))
    assert found["dice"] == pytest.approx(max(dice(values >= level, inside) for level in values))
    assert found["dice_inverted"] == pytest.approx(max(dice(values <= level, inside) for level in values))


@given(pixels)
def test_turning_a_map_over_swaps_the_directions(pixels):
    values, inside = np.array([value for value, _ in pixels], float), np.array([within for _, within in pixels])
    up, down = localisation.separation(values, inside), localisation.separation(-values, inside)
    for name in ("auc", "dice"):
        assert up[name] == pytest.approx(down[f"{name}_inverted"], nan_ok=True)


def test_a_map_that_is_the_mask_has_perfect_scores():
    maps = np.stack([LUNGS, OPACITIES, ~OPACITIES]).astype(np.float32)
    lungs, opacities, inverted = localisation.scores(maps, MASKS).to_dict("records")
    assert [lungs["channel"], opacities["channel"], inverted["channel"]] == [1, 2, 3]
    assert lungs["lung_auc"] == lungs["lung_dice"] == 1
    assert opacities["opacity_auc"] == 1 and opacities["energy"] == pytest.approx(1 / SHARE)
    assert opacities["pointing"] == pytest.approx(1 - SHARE)
    for name in ("opacity_auc", "energy", "pointing"):
        assert inverted[f"{name}_inverted"] == pytest.approx(opacities[name])
        assert inverted[name] <= opacities[name]


def test_a_flat_map_is_at_chance():
    (flat,) = localisation.scores(np.zeros((1, 4, 4), np.float32), MASKS).to_dict("records")
    assert (
        flat["lung_auc"] == flat["opacity_auc"] == 0.5 and flat["energy"] == 1 and flat["pointing"] == pytest.approx(0)
    )


def test_small_maps_are_enlarged_to_the_masks():
    rough = LUNGS.reshape(8, 2, 8, 2).mean(axis=(1, 3)).astype(np.float32)
    assert localisation.enlarged(rough[None], SIDE).shape == (1, SIDE, SIDE)
    assert localisation.scores(rough[None], MASKS).loc[0, "lung_auc"] > 0.97


def test_without_an_opacity_its_scores_are_undefined_and_without_its_mask_absent():
    maps = np.random.default_rng(0).random((2, SIDE, SIDE)).astype(np.float32)
    healthy = localisation.scores(maps, MASKS | {"opacities": np.zeros_like(LUNGS)})
    assert healthy[["opacity_auc", "energy", "pointing"]].isna().all(axis=None) and healthy["lung_auc"].notna().all()
    flat = localisation.scores(np.zeros_like(maps), MASKS | {"opacities": np.zeros_like(LUNGS)})
    assert flat[["energy", "energy_inverted"]].isna().all(axis=None)
    nowhere = localisation.scores(maps, {"lungs": np.zeros_like(LUNGS), "opacities": OPACITIES})
    assert nowhere.drop(columns="channel").isna().all(axis=None)
    assert not {"opacity_auc", "energy", "pointing"} & set(localisation.scores(maps, {"lungs": LUNGS}))
    assert "lung_auc" not in localisation.scores(maps, {"opacities": OPACITIES})


@pytest.fixture
def data(home):
    return toy.load(toy.prepared())


def test_scores_of_many_radiographs_name_whose_they_are(data):
    test = data.part("test")
    masks = {"lungs": np.ones((len(test), 32, 32), bool), "opacities": np.zeros((len(test), 32, 32), bool)}
    masks["lungs"][:, :4] = False
    masks["opacities"][:, 10:22, 8:24] = True
    pictures = data.images[test].float()
    found = localisation.scored(torch.cat([pictures, -pictures], dim=1).numpy(), data.manifest.iloc[test], masks)
    assert len(found) == 2 * len(test) and found["image_id"].unique().tolist() == [f"r{place}" for place in test]
    one, other = found[found["channel"] == 1], found[found["channel"] == 2]
    assert one["opacity_auc"].to_numpy() == pytest.approx(other["opacity_auc_inverted"].to_numpy())
    bright = data.labels.numpy()[test] == 1  # the toy's positives hold a bright square there
    assert (one["opacity_auc"].to_numpy()[bright] > 0.9).all() and (one["opacity_auc"].to_numpy()[~bright] < 0.7).all()


def test_a_set_without_any_opacity_is_refused(data):
    test = data.part("test")
    masks = {"opacities": np.zeros((len(test), 32, 32), bool)}
    with pytest.raises(ValueError, match=f"none of the {len(test)} radiographs has an opacity"):
        localisation.scored(data.images[test].numpy(), data.manifest.iloc[test], masks)


def frame(auc, patients=4):
    """Two channels, `auc` and 0.5, of each patient."""
    rows = [
        {"channel": channel, "image_id": f"r{place}", "patient_id": f"p{place}"}
        | {
            f"{score}{end}": value if end == "" else 1 - value
            for score in localisation.SCORES
            for end in ("", "_inverted")
        }
        for place in range(patients)
        for channel, value in ((1, auc + place / 100), (2, 0.5))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("before", "direction", "value"), [(0.9, "bright", 0.2), (0.1, "dark", 0.8)])
def test_the_direction_is_chosen_on_other_radiographs(before, direction, value):
    found = localisation.directed(frame(0.2), chosen_on=frame(before))
    first = found[found["channel"] == 1].iloc[0]
    assert first["lung_is"] == first["opacity_is"] == direction
    assert first[list(localisation.SCORES)].tolist() == pytest.approx([value] * 5)


def test_a_score_that_is_nowhere_defined_has_no_mean():
    found = frame(0.7).assign(opacity_auc=np.nan)
    assert np.isnan(list(localisation.mean(found, "opacity_auc").values())).all()
