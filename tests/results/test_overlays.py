import cv2
import numpy as np
import pytest

from pneumo_nb.results import overlays

RAMP = np.arange(64.0).reshape(8, 8)
GREY = overlays.grey(np.full((50, 50), 100, np.uint8), 255, 120)


def brightness(colour):
    return float(np.asarray(colour) @ (0.299, 0.587, 0.114))


def test_black_and_white_stay_what_they_are_at_any_depth():
    eight, sixteen = np.array([[0, 255]] * 2, np.uint8), np.array([[0, 65535]] * 2, np.int32)
    assert (overlays.grey(eight, 255, 2) == overlays.grey(sixteen, 65535, 2)).all()
    assert overlays.grey(eight, 255, 2)[0, :, 0].tolist() == [0, 255]


def test_higher_values_are_brighter_for_every_kind_of_colour_vision():
    colours = overlays.coloured(RAMP, 8).reshape(-1, 3)
    assert colours.dtype == np.uint8 and (np.diff([brightness(colour) for colour in colours]) > -1.5).all()
    assert brightness(colours[-1]) - brightness(colours[0]) > 150


@pytest.mark.parametrize("values", [RAMP * 1e-6, RAMP - 1000, RAMP * 1e6])
def test_only_the_order_of_magnitudes_within_a_map_counts(values):
    assert abs(overlays.coloured(values, 8).astype(int) - overlays.coloured(RAMP, 8)).max() <= 2


def test_one_outlier_does_not_darken_a_map():
    spiked = np.pad(RAMP, 8)
    spiked[0, 0] = 1e6
    assert overlays.coloured(spiked, 24)[15, 15].tolist() != overlays.coloured(spiked, 24)[8, 8].tolist()


def test_a_map_of_one_value_is_drawn_as_lowest():
    assert (overlays.coloured(np.full((4, 4), 7.0), 6) == overlays.coloured(RAMP, 8)[0, 0]).all()


def test_the_radiograph_shows_through_where_a_map_is_low():
    over = overlays.overlaid(GREY, np.repeat([[0.0, 1.0]], 2, axis=0))
    assert (over[60, 2] == GREY[60, 2]).all() and (over[60, -2] != GREY[60, -2]).any()
    assert over.shape == GREY.shape and over.dtype == np.uint8


def test_an_outline_runs_along_the_border_of_the_mask_only():
    mask = np.zeros((12, 12), bool)
    mask[3:9, 3:9] = True
    drawn = (overlays.outlined(GREY, mask) == overlays.OUTLINE).all(axis=2)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (30, 89, 30, 89) and not drawn[60, 60]
    assert (overlays.outlined(GREY, np.zeros((12, 12), bool)) == GREY).all()


def test_right_and_left_are_marked_and_the_bar_has_its_length():
    side = 300
    ground = np.full((side, side, 3), 90, np.uint8)
    marked, unknown = overlays.marked(ground, width_mm=300.0), overlays.marked(ground, float("nan"))
    white = (marked == 255).all(axis=2)
    assert white[:40, :40].any() and white[:40, -40:].any() and not white[60:200].any()
    longest = max(int(row.sum()) for row in white[-20:])
    assert longest == pytest.approx(50, abs=4)
    assert (unknown[100:] == 90).all() and (unknown[:40] != 90).any()
    assert (ground == 90).all()  # the picture that was given is left alone


def test_channels_are_the_radiograph_and_a_pair_for_each_map():
    mask = np.pad(np.ones((2, 2), bool), 1)
    pictures = overlays.channels(GREY, np.stack([RAMP, -RAMP, RAMP]), 350.0, mask)
    assert len(pictures) == 4 and {each.shape for each in pictures} == {(120, 240, 3)}
    assert (pictures[1] == pictures[3]).all() and (pictures[1] != pictures[2]).any()
    outlined = (pictures[0] == overlays.OUTLINE).all(axis=2)
    assert outlined[:, 120:].any() and not outlined[:, :120].any()


def test_webp_keeps_colours():
    coloured = overlays.coloured(RAMP, 64)
    again = cv2.imdecode(np.frombuffer(overlays.webp(coloured), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert abs(again.astype(int) - coloured).mean() < 6
