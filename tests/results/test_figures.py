import io
import itertools

import cv2
import matplotlib
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


def of_truth(columns=("n = 1", "n = 5")):
    rows = [(name, seed, value) for name in columns for seed in range(2) for value in ("I", "II")]
    frame = pd.DataFrame(rows, columns=["column", "seed", "value"])
    return frame.assign(auc=np.linspace(0.6, 1, len(rows)), positives=4, negatives=9)


HOSTILE = {  # what a matplotlibrc may hold; without LaTeX, text.usetex alone would stop every figure
    "text.usetex": True,
    "font.size": 40,
    "font.family": "monospace",
    "axes.facecolor": "black",
    "figure.facecolor": "black",
    "savefig.facecolor": "red",
    "text.color": "white",
    "axes.labelcolor": "white",
    "axes.prop_cycle": "cycler('color', ['white'])",
    "lines.linewidth": 9,
    "lines.markersize": 30,
    "axes.grid": True,
    "figure.dpi": 20,
    "savefig.dpi": 15,
    "image.cmap": "hot",
    "image.origin": "lower",
    "legend.loc": "center",
    "axes.unicode_minus": False,
}
EVERY = {
    "contact_sheet": lambda: figures.contact_sheet([np.eye(9, 8, dtype=np.uint8) * 99], ["one"], columns=1),
    "figure_7": lambda: figures.figure_7({"n = 1": [history()]}),
    "intervals": lambda: figures.intervals(
        pd.DataFrame({"label": ["a", "b"], "group": ["x", "y"], "value": -0.1, "low": -0.2, "high": [0.1, np.nan]})
    ),
    "nothing": lambda: figures.intervals(pd.DataFrame({"label": []})),
    "dots": lambda: figures.dots(pd.DataFrame({"label": ["a"], "value": [-2]}), "x", {"mark": 1}),
    "no truth": lambda: figures.by_truth({"stage": of_truth(())}),
    "curves": lambda: figures.roc_and_precision_recall({"one": [([0, 1], [0.2, 0.8])]}),
}


def as_notebook_and_as_file(figure):
    shown = io.BytesIO()
    figure.canvas.print_figure(shown, format="jpeg", dpi=figure.dpi, facecolor="white", bbox_inches="tight")
    return shown.getvalue(), figures.jpeg(figure, quality=95)


@pytest.mark.parametrize("name", EVERY)
def test_no_matplotlibrc_changes_a_figure(name):
    usual = as_notebook_and_as_file(EVERY[name]())
    with matplotlib.rc_context(HOSTILE):
        before = dict(matplotlib.rcParams)
        assert as_notebook_and_as_file(EVERY[name]()) == usual
        assert dict(matplotlib.rcParams) == before


def test_auc_by_truth_has_a_dot_for_each_seed_and_tells_how_many_patients_stand_behind_it():
    figure = drawn(figures.by_truth({"stage": of_truth(), "letter": of_truth(("n = 5",)), "profusion": of_truth(())}))
    stage, letter = figure.axes
    assert [panel.get_title() for panel in (stage, letter)] == ["by stage", "by letter"]
    assert [len(line.get_xdata()) for line in stage.lines] == [4, 4]
    assert texts(figure.legends[0]) == ["I (4 patients)", "II (4 patients)"]
    (axes,) = drawn(figures.by_truth({"stage": of_truth(()), "letter": of_truth(())})).axes
    assert "not known" in axes.texts[0].get_text() and not axes.lines


@pytest.mark.parametrize("groups", [2, 9])
def test_dots_of_one_line_stay_apart_from_the_next_line(groups):
    rows = pd.DataFrame(
        {"label": ["a", "b"] * groups, "value": 1, "group": [f"g{place // 2}" for place in range(2 * groups)]}
    )
    axes = drawn(figures.dots(rows, "x")).axes[0]
    heights = [line.get_ydata() for line in axes.lines[:groups]]
    assert max(of_group[0] for of_group in heights) + 0.1 < min(of_group[1] for of_group in heights)


def test_labels_do_not_overlap_however_many_columns_and_however_long_their_names():
    names = [f"DenseNet53, bottleneck False, reading {place}" for place in range(9)]
    rows = pd.DataFrame([(name, panel) for name in names for panel in "abc"], columns=["label", "panel"])
    rows = rows.assign(value=np.linspace(-0.123, 0.123, len(rows)), low=-0.2, high=0.2)
    figure = drawn(figures.intervals(rows, "difference"))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_figure_7_has_two_panels_for_each_scale_factor_and_a_line_for_each_seed():
    panels = drawn(figures.figure_7({"n = 1": [history(), history()], "n = 5": [history()]})).axes
    assert [panel.get_title()[:3] for panel in panels] == ["(a)", "(b)", "(c)", "(d)"]
    loss_and_accuracy, rest = panels[:2]
    assert len(loss_and_accuracy.lines) == 4 * 3 and len(rest.lines) == 3 * 3
    assert "testing recall" in [text.get_text() for text in rest.get_legend().get_texts()]


def test_any_number_of_columns_can_be_drawn():
    names = [f"column {place}" for place in range(30)]
    panels = figures.figure_7({name: [history()] for name in names[:6]}).axes
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


def test_roc_and_precision_recall_name_areas_and_points():
    labels = [0, 0, 1, 1]
    curves = {"n = 1": [(labels, [0.1, 0.4, 0.35, 0.8]), (labels, [0.1, 0.2, 0.3, 0.4])], "one class": [([0], [0.2])]}
    figure = drawn(figures.roc_and_precision_recall(curves, {"paper": metrics.Counts(16, 3, 12, 109)}))
    left, right = figure.axes
    assert texts(left.get_legend()) == ["n = 1: AUC 0.875", "one class: AUC undefined", "paper"]
    assert texts(right.get_legend())[0] == f"n = 1: AP {(1 + 5 / 6) / 2:.3f}"
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines if line.get_label() == "paper"]
    assert points == [pytest.approx((3 / 112, 16 / 28))]


def test_a_contact_sheet_shows_every_picture_with_its_title_and_fits_wide_ones_in_colour():
    figure = drawn(figures.contact_sheet([np.zeros((10, 20, 3), np.uint8)] * 3, ["a", "b", "c"], columns=2, width=3))
    assert tuple(figure.get_size_inches()) == (6, 2 * (1.5 + 0.25))
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["a", "b", "c"]


def test_a_png_of_few_colours_keeps_every_group_apart():
    rows = [{"label": f"{line}", "group": group, "value": line} for line in range(12) for group in "abcdef"]
    figure, full = figures.dots(pd.DataFrame(rows), "x"), io.BytesIO()
    figure.savefig(full, format="png", dpi=100)
    before, after = (
        cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).astype(int)
        for content in (full.getvalue(), figures.png(figure))
    )
    assert np.abs(after - before).max() < 16
    assert 2 * len(figures.png(figure)) < len(full.getvalue())


@pytest.mark.parametrize("kind", [figures.jpeg, figures.png])
def test_a_figure_as_a_file_is_what_was_drawn(kind):
    white, black = np.full((10, 10), 255, np.uint8), np.zeros((10, 10), np.uint8)
    figure = figures.contact_sheet([white, black], ["", ""], columns=2)
    picture = cv2.imdecode(np.frombuffer(kind(figure), np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = picture.shape
    assert (width, height) == (340, 195)
    assert picture[height // 2 + 10, width // 4] > 250 and picture[height // 2 + 10, 3 * width // 4] < 5
