"""The beam is weakened by what it meets, and the detector answers within 12 bits, white where it is dense."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumo_nb.phantom import anatomy, beam

PICTURE = beam.Picture(160, 166, 2.6, 1.6)


def detected(weakened: np.ndarray, seed: int = 0) -> np.ndarray:
    return beam.detected(PICTURE, weakened.astype(np.float32), *np.random.default_rng(seed).spawn(2))


def steps(high: float) -> np.ndarray:
    """Attenuation that rises from the left to the right."""
    return np.tile(np.linspace(0.5, high, PICTURE.width), (PICTURE.height, 1))


def test_lung_weakens_less_than_fat_fat_less_than_muscle_and_bone_most():
    per_mm = beam.PER_MM
    assert beam.LUNG_PER_MM < per_mm["fat"] < per_mm["soft"] < per_mm["bone"]


def test_attenuation_is_coefficient_times_path_and_blood_takes_the_place_of_lung():
    one = anatomy.chest(np.random.default_rng(1), 2.0)
    where = np.unravel_index(one.blood.argmax(), one.blood.shape)
    by_hand = sum(getattr(one, tissue)[where] * per_mm for tissue, per_mm in beam.PER_MM.items())
    by_hand += (one.lung.sum(0)[where] - one.blood[where]) * beam.LUNG_PER_MM
    assert beam.attenuation(one)[where] == pytest.approx(by_hand, rel=1e-4)


@given(st.integers(0, 1000), st.floats(2, 9))
def test_values_have_12_bits_and_denser_is_whiter(seed, high):
    values = detected(steps(high), seed)
    assert values.dtype == np.uint16 and values.max() <= beam.WHITE
    middle = values[60:120, 20:-20].mean(0)  # away from the lead of the collimator and of the letter
    assert (np.diff(middle[::10]) > 0).all()


def test_dense_regions_keep_many_grey_levels():
    values = detected(steps(7.0))[60:120, 20:-20].mean(0)
    assert values[-20] - values[-60] > 60


def test_the_same_generators_give_the_same_picture():
    assert np.array_equal(detected(steps(5), 3), detected(steps(5), 3))


@given(st.floats(-50, 300), st.floats(-50, 300), st.floats(0.7, 40))
def test_a_window_lies_within_the_picture(x, y, reach):
    rows, columns = PICTURE.window(x, y, reach)
    assert rows.start >= 0 and columns.start >= 0 and rows.stop <= 166 and columns.stop <= 160


def test_places_on_the_grid_and_in_the_enlarged_map_are_the_same():
    grid = np.zeros((269, 260), np.float32)
    grid[100:103, 70:73] = 1
    row, column = np.unravel_index(PICTURE.enlarged(grid, 1).argmax(), (166, 160))
    assert PICTURE.to_pixels(np.array([[71, 101]]), grid.shape)[0] == pytest.approx([column, row], abs=1)
