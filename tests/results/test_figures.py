import cv2
import numpy as np
import pandas as pd
import pytest

from pneumo_nb import metrics
from pneumo_nb.results import figures


def history(epochs=3):
    columns = {
        f"{split}_{name}": np.linspace(0, 1, epochs)
        for split in ("train", "test")
        for name in ("loss", *figures.METRICS)
    }
    return pd.DataFrame({"epoch": range(1, epochs + 1)} | columns)


def drawn(figure):
    figure.canvas.draw()
    return figure


def test_figure_1_has_the_papers_four_panels():
    before, after = np.full((20, 10), 60, np.uint8), np.full((20, 10), 200, np.uint8)
    panels = drawn(figures.figure_1(before, after)).axes
    assert [panel.get_title()[:3] for panel in panels] == ["(a)", "(b)", "(c)", "(d)"]
    assert sum(bar.get_height() for bar in panels[1].patches) == before.size


def test_figure_1_takes_sixteen_bits():
    image = np.full((20, 10), 60000, np.uint16)
    assert drawn(figures.figure_1(image, image)).axes[1].get_xlim()[1] > 60000


def test_figure_2_has_a_box_for_each_step_and_arrows_between():
    axes = drawn(figures.figure_2([("found", "10"), ("accepted", "9"), ("split", "7 + 2")])).axes[0]
    assert [text.get_text().split("\n")[0] for text in axes.texts if text.get_text()] == ["found", "accepted", "split"]


def test_figure_7_has_two_panels_for_each_scale_factor_and_a_line_for_each_seed():
    panels = drawn(figures.figure_7({"n = 1": [history(), history()], "n = 5": [history()]})).axes
    assert [panel.get_title()[:3] for panel in panels] == ["(a)", "(b)", "(c)", "(d)"]
    loss_and_accuracy, rest = panels[:2]
    assert len(loss_and_accuracy.lines) == 4 * 3 and len(rest.lines) == 3 * 3
    assert "testing recall" in [text.get_text() for text in rest.get_legend().get_texts()]


def test_any_number_of_columns_can_be_drawn():
    names = [f"column {place}" for place in range(30)]
    panels = drawn(figures.figure_7({name: [history()] for name in names[:6]})).axes
    assert [panel.get_title()[:3] for panel in panels] == [f"({letter})" for letter in "abcdefghijkl"]
    rows = pd.DataFrame({"label": names, "group": names, "value": 0.5, "low": 0.4, "high": 0.6})
    (axes,) = drawn(figures.intervals(rows)).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == names
    points = {name: metrics.Counts(1, 2, 3, 4) for name in names}
    left, _ = drawn(figures.roc_and_precision_recall({"one": [([0, 1], [0.2, 0.8])]}, points)).axes
    assert [text.get_text() for text in left.get_legend().get_texts()][1:] == names


def test_beside_the_paper_draws_every_seed_and_leaves_undefined_values_out():
    row = {f"{name}{end}": 0.5 for name in figures.METRICS for end in ("", "_low", "_high")}
    rows = pd.DataFrame(
        [
            {"column": "n = 1", "source": "paper", "seed": np.nan} | row,
            {"column": "n = 1", "source": "run", "seed": 0} | row | {"precision": np.nan, "precision_low": np.nan},
            {"column": "n = 1", "source": "run", "seed": 1} | row,
        ]
    )
    figure = drawn(figures.beside_the_paper(rows.astype({"seed": "Int64"})))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "n = 1, paper",
        "n = 1, seed 0",
        "n = 1, seed 1",
    ]


def test_contact_sheet_shows_every_image_with_its_title():
    images = [np.zeros((9, 8), np.uint8)] * 7
    panels = drawn(figures.contact_sheet(images, [f"r{i}" for i in range(7)], columns=3)).axes
    assert [panel.get_title() for panel in panels if panel.images] == [f"r{i}" for i in range(7)]


def test_mosaic_puts_tiles_side_by_side_from_the_top_left():
    tiles = np.stack([np.full((4, 4), grey, np.uint8) for grey in range(7)])
    sheet = drawn(figures.mosaic(tiles, columns=3)).axes[0].images[0].get_array()
    assert sheet[::4, ::4].tolist() == [[0, 1, 2], [3, 4, 5], [6, 255, 255]] and sheet.shape == (12, 12)


def test_effective_weights_are_written_at_their_bars():
    axes = drawn(figures.effective_weights(pd.DataFrame({"reading": ["a", "b"], "ratio": [1.0, 5.0]}))).axes[0]
    assert {"1.00", "5.00"} <= {text.get_text() for text in axes.texts}


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_intervals_draw_each_row_in_its_panel_and_write_out_what_is_undefined():
    rows = pd.DataFrame(
        [
            ("accuracy", "a", 0.8, 0.7, 0.9, "paper"),
            ("accuracy", "b", 0.6, 0.5, 0.7, "run"),
            ("precision", "a", np.nan, np.nan, np.nan, "paper"),
        ],
        columns=["panel", "label", "value", "low", "high", "group"],
    )
    figure = drawn(figures.intervals(rows, "value", at=0.5))
    left, right = figure.axes
    assert [left.get_title(), right.get_title()] == ["accuracy", "precision"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    drawn_intervals = [list(line.get_xdata()) for line in left.lines if len(line.get_xdata()) == 2]
    assert [0.7, 0.9] in drawn_intervals and [0.5, 0.7] in drawn_intervals
    assert [text.get_text() for text in right.texts] == ["undefined"] and not left.texts
    assert texts(figure.legends[0]) == ["paper", "run"]
    assert left.lines[0].get_color() == figures.PAPER_COLOUR != left.lines[2].get_color()


def test_intervals_with_one_label_do_not_cover_each_other():
    rows = pd.DataFrame({"label": ["claim"] * 3, "value": [0.1] * 3, "low": [0.0] * 3, "high": [0.2] * 3})
    axes = drawn(figures.intervals(rows)).axes[0]
    heights = {line.get_ydata()[0] for line in axes.lines}
    assert len(heights) == 3 and max(heights) - min(heights) < 1


@pytest.mark.parametrize("log", [False, True])
def test_dots_stand_on_the_line_of_their_label(log):
    rows = pd.DataFrame({"label": ["a", "b", "a"], "value": [1, 2, 10], "group": ["x", "x", "y"]})
    figure = drawn(figures.dots(rows, "radiographs", {"limit": 5}, log=log))
    axes = figure.axes[0]
    dots = [(x, round(y)) for line in axes.lines[:2] for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    assert sorted(dots) == [(1, 0), (2, 1), (10, 0)] and texts(axes.get_legend()) == ["limit"]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert {"1", "10"} <= set(ticks) if log else all("." not in tick for tick in ticks)


def test_histograms_are_shares_of_each_entry():
    axes = drawn(figures.histograms({"a": [1, 1, 2, 3], "b": [2, 2]}, "images", {"paper": 2})).axes[0]
    assert texts(axes.get_legend()) == ["a", "b", "paper"]
    assert axes.get_ylim()[1] == pytest.approx(1.05)  # the share of the 2 in "b" is 1


def test_roc_and_precision_recall_name_areas_and_points():
    labels = [0, 0, 1, 1]
    curves = {"n = 1": [(labels, [0.1, 0.4, 0.35, 0.8]), (labels, [0.1, 0.2, 0.3, 0.4])], "one class": [([0], [0.2])]}
    figure = drawn(figures.roc_and_precision_recall(curves, {"paper": metrics.Counts(16, 3, 12, 109)}))
    left, right = figure.axes
    assert texts(left.get_legend()) == ["n = 1: AUC 0.875", "one class: AUC undefined", "paper"]
    assert texts(right.get_legend())[0] == f"n = 1: AP {(1 + 5 / 6) / 2:.3f}"
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines if line.get_label() == "paper"]
    assert points == [pytest.approx((3 / 112, 16 / 28))]


def test_reliability_draws_every_bin():
    curve = metrics.reliability([0, 1, 0, 1], [0.1, 0.2, 0.7, 0.9], bins=2)
    axes = drawn(figures.reliability({"n = 1": curve})).axes[0]
    assert texts(axes.get_legend()) == ["calibrated", "n = 1 (4 images)"]
    assert list(axes.lines[1].get_ydata()) == [0.5, 0.5] and len(axes.collections[0].get_segments()) == 2


def test_a_contact_sheet_fits_wide_pictures_in_colour():
    figure = drawn(figures.contact_sheet([np.zeros((10, 20, 3), np.uint8)] * 3, ["a", "b", "c"], columns=2, width=3))
    assert tuple(figure.get_size_inches()) == (6, 2 * (1.5 + 0.25))
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["a", "b", "c"]


def test_a_figure_as_jpeg_is_what_was_drawn():
    white, black = np.full((10, 10), 255, np.uint8), np.zeros((10, 10), np.uint8)
    figure = figures.contact_sheet([white, black], ["", ""], columns=2)
    picture = cv2.imdecode(np.frombuffer(figures.jpeg(figure), np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = picture.shape
    assert (width, height) == (340, 195)
    assert picture[height // 2 + 10, width // 4] > 250 and picture[height // 2 + 10, 3 * width // 4] < 5
