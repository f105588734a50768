import numpy as np
import pandas as pd

from pneumo_nb import figures


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


def test_effective_weights_are_written_at_their_bars():
    axes = drawn(figures.effective_weights(pd.DataFrame({"reading": ["a", "b"], "ratio": [1.0, 5.0]}))).axes[0]
    assert {"1.00", "5.00"} <= {text.get_text() for text in axes.texts}
