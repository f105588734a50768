"""Every plot of the notebooks: plain data in, a matplotlib Figure out."""

import io
from collections.abc import Sequence
from itertools import cycle
from string import ascii_lowercase

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pneumo_nb import metrics

PALETTE = sns.color_palette("colorblind")
PAPER_COLOUR = PALETTE[3]
METRICS = ("accuracy", "precision", "recall", "f1")


def _panels(rows: int, columns: int, size: tuple[float, float], **more) -> tuple[Figure, np.ndarray]:
    """A figure of that size in inches and its (rows, columns) axes; unknown to pyplot, so a notebook shows it once."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def radiograph(axes, image: np.ndarray, title: str = "") -> None:
    """Draw one (height, width) radiograph, black to white over its own range of bits."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=np.iinfo(image.dtype).max)
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def figure_1(before: np.ndarray, after: np.ndarray) -> Figure:
    """Figure 1: image and histogram, (a, b) before and (c, d) after histogram equalisation."""
    figure, panels = _panels(2, 2, (8, 6.5), width_ratios=(1, 1.4))
    for row, (image, name, letters) in enumerate(((before, "original", "ab"), (after, "transformed", "cd"))):
        radiograph(panels[row, 0], image, f"({letters[0]}) {name} image")
        panels[row, 1].hist(image.ravel(), bins=128, range=(0, np.iinfo(image.dtype).max), color=PALETTE[0])
        panels[row, 1].set(title=f"({letters[1]}) {name} histogram", xlabel="grey level", ylabel="pixels")
    return figure


def figure_2(steps: Sequence[tuple[str, str]]) -> Figure:
    """Figure 2: the preparation as a row of boxes, each a step and what it left, joined by arrows."""
    figure, ((axes,),) = _panels(1, 1, (2.0 * len(steps), 1.7))
    axes.set(xlim=(-0.5, len(steps) - 0.5), ylim=(-1, 1))
    axes.axis("off")
    for place, (step, left) in enumerate(steps):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#eef3f7", "edgecolor": PALETTE[0]}
        axes.text(place, 0, f"{step}\n\n{left}", ha="center", va="center", fontsize=9, bbox=box)
        if place:
            arrow = {"arrowstyle": "->", "color": PALETTE[0], "linewidth": 1.5}
            axes.annotate("", (place - 0.36, 0), (place - 0.64, 0), arrowprops=arrow)
    return figure


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 6, width: float = 1.7) -> Figure:
    """Radiographs, or RGB pictures, side by side, each with its title and `width` inches wide."""
    rows = max(1, -(-len(images) // columns))
    height = width * images[0].shape[0] / images[0].shape[1] if len(images) else width
    figure, panels = _panels(rows, columns, (width * columns, (height + 0.25) * rows))
    for panel in panels.flat:
        panel.axis("off")
    for panel, image, title in zip(panels.flat, images, titles, strict=False):
        radiograph(panel, image, title)
    return figure


def mosaic(tiles: np.ndarray, columns: int = 20) -> Figure:
    """Many small radiographs, (images, side, side) of uint8, edge to edge in rows from the top left."""
    rows, side = max(1, -(-len(tiles) // columns)), tiles.shape[1]
    sheet = np.full((rows * columns, side, side), 255, np.uint8)
    sheet[: len(tiles)] = tiles
    sheet = sheet.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)
    figure, ((axes,),) = _panels(1, 1, (8, 8 * rows / columns))
    radiograph(axes, sheet)
    return figure


def jpeg(figure: Figure, quality: int = 50) -> bytes:
    """The figure as a JPEG file: for sheets of pictures, several times smaller than the PNG that a notebook keeps."""
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", dpi=100, pil_kwargs={"quality": quality})
    return content.getvalue()


def figure_4(layers: int) -> Figure:
    """Figure 4: a dense block of that many layers; an arc from each feature map to every layer behind it."""
    figure, ((axes,),) = _panels(1, 1, (1.3 * (layers + 1), 2.9))
    for place in range(layers + 1):
        axes.text(place, 0, f"$x_{place}$", ha="center", va="center", fontsize=12, zorder=3,
                  bbox={"boxstyle": "round,pad=0.45", "facecolor": "#eef3f7", "edgecolor": PALETTE[place]})  # fmt: skip
        for later in range(place + 1, layers + 1):
            arrow = {"arrowstyle": "->", "color": PALETTE[place], "linewidth": 1.3, "shrinkA": 14, "shrinkB": 14,
                     "connectionstyle": f"arc3,rad={-0.45 if later > place + 1 else 0}"}  # fmt: skip
            axes.annotate("", (later, 0), (place, 0), arrowprops=arrow)
        if place:
            axes.text(place, -0.55, f"$H_{place}$: BN, ReLU,\n3 x 3 conv", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, layers + 0.5), ylim=(-0.8, 1.1))
    axes.axis("off")
    return figure


def figure_7(histories: dict[str, Sequence[pd.DataFrame]]) -> Figure:
    """Figure 7: the training process, two panels for each entry: loss and accuracy; precision, recall and F1 score.

    `histories` maps a heading ("n = 1") to the histories of all seeds; every seed is a thin line, the median a thick
    one. Testing is drawn solid, training dashed.
    """
    figure, panels = _panels(len(histories), 2, (10, 3.3 * len(histories)))
    letters = cycle(ascii_lowercase)
    for row, (heading, seeds) in zip(panels, histories.items(), strict=True):
        for panel, names in zip(row, (("loss", "accuracy"), ("precision", "recall", "f1")), strict=True):
            for colour, name in zip(PALETTE, names, strict=False):
                for split, style in (("test", "-"), ("train", "--")):
                    if split == "train" and name in METRICS[1:]:
                        continue
                    curves = pd.concat([seed.set_index("epoch")[f"{split}_{name}"] for seed in seeds], axis=1)
                    panel.plot(curves, style, color=colour, linewidth=0.6, alpha=0.5)
                    label = f"{'testing' if split == 'test' else 'training'} {name}"
                    panel.plot(curves.median(axis=1), style, color=colour, linewidth=2, label=label)
            panel.set(title=f"({next(letters)}) {heading}: {', '.join(names)}", xlabel="epoch", ylim=(0, None))
            panel.legend(fontsize=8)
    return figure


def beside_the_paper(rows: pd.DataFrame) -> Figure:
    """A panel for each metric: the paper's value and every seed's of this run, with Wilson's 95 % intervals.

    `rows` has the columns source ("paper" or "run"), column, and for each metric its value, `<metric>_low` and
    `<metric>_high` (NaN where undefined; F1 has no Wilson interval).
    """
    figure, (panels,) = _panels(1, 4, (11, 0.9 + 0.5 * len(rows) ** 0.9), sharey=True)
    names = [f"{row.column}, {'paper' if row.source == 'paper' else f'seed {row.seed}'}" for row in rows.itertuples()]
    for panel, metric in zip(panels, METRICS, strict=True):
        for height, row in enumerate(rows.to_dict("records")):
            colour = PAPER_COLOUR if row["source"] == "paper" else PALETTE[0]
            if f"{metric}_low" in row:
                panel.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [height] * 2, color=colour)
            panel.plot(row[metric], height, "o", color=colour)
        panel.set(title={"f1": "F1 score"}.get(metric, metric), xlim=(-0.02, 1.02))
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure


def effective_weights(readings: pd.DataFrame) -> Figure:
    """For each reading of Eq. 7 the effective weight of a positive against a negative: columns reading, ratio."""
    figure, ((axes,),) = _panels(1, 1, (7, 0.6 + 0.35 * len(readings)))
    sns.barplot(readings, x="ratio", y="reading", color=PALETTE[0], ax=axes)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.bar_label(axes.containers[0], fmt="%.2f", padding=3)
    axes.margins(x=0.12)
    axes.set(xlabel="effective weight of a positive : a negative", ylabel="")
    return figure


def _colours(groups: Sequence[str]) -> dict[str, tuple]:
    """A colour for each group in the order of appearance; the group "paper" has the paper's."""
    names = list(dict.fromkeys(groups))
    others = cycle([colour for colour in PALETTE if colour != PAPER_COLOUR])
    return {name: PAPER_COLOUR if name == "paper" else next(others) for name in names}


def _legend(figure: Figure, colours: dict[str, tuple], line: str = "-") -> None:
    """Name the groups' colours below the panels, if there is more than one."""
    if len(colours) > 1:
        handles = [
            Line2D([], [], marker="o", color=colour, linestyle=line, label=name) for name, colour in colours.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)


def _mark(axes, marks: dict[str, float]) -> None:
    """A dashed vertical line for each mark, its name in the legend."""
    for style, (name, value) in zip(("--", ":", "-."), marks.items(), strict=False):
        axes.axvline(value, color="black", linestyle=style, linewidth=1.2, label=name)
    if marks:
        axes.legend(fontsize=8)


def intervals(rows: pd.DataFrame, xlabel: str = "", at: float | None = None) -> Figure:
    """A forest plot: each row's value as a dot on its interval, from top to bottom.

    `rows` has the columns label, value, low, high, and may have group (a colour) and panel (side by side). Rows with
    one label lie close together. `at` draws a line, such as 0 for no difference. NaN is written out as undefined.
    """
    if rows.empty:
        figure, ((axes,),) = _panels(1, 1, (4, 0.6))
        axes.text(0, 0.5, "nothing to compare: there is one column only")
        axes.axis("off")
        return figure
    rows = rows.assign(**{name: "" for name in ("group", "panel") if name not in rows})
    labels, names, colours = (
        list(dict.fromkeys(rows["label"])),
        list(dict.fromkeys(rows["panel"])),
        _colours(rows["group"]),
    )
    crowd = rows.groupby(["panel", "label"]).size().max()
    size = (2.5 + max(4.0, 2.1 * len(names)), 1.1 + 0.3 * len(labels) * crowd**0.7)
    figure, (panels,) = _panels(1, len(names), size, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        inside = rows[rows["panel"] == name]
        for row, turn in zip(inside.to_dict("records"), inside.groupby("label").cumcount(), strict=True):
            height, colour = labels.index(row["label"]) + (turn - (crowd - 1) / 2) * 0.7 / crowd, colours[row["group"]]
            panel.plot([row["low"], row["high"]], [height] * 2, color=colour)
            panel.plot(row["value"], height, "o", color=colour, markersize=5)
            if np.isnan(row["value"]):
                panel.text(0.5, height, "undefined", transform=panel.get_yaxis_transform(), ha="center", va="center")
        if at is not None:
            panel.axvline(at, color="black", linewidth=0.8)
        panel.set(title=name, xlabel=xlabel)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    _legend(figure, colours)
    return figure


def dots(rows: pd.DataFrame, xlabel: str, marks: dict[str, float] | None = None, log: bool = False) -> Figure:
    """Every row as a dot on the line of its label: columns label, value, and perhaps group; `marks` are named lines."""
    rows = rows if "group" in rows else rows.assign(group="")
    labels, colours = list(dict.fromkeys(rows["label"])), _colours(rows["group"])
    figure, ((axes,),) = _panels(1, 1, (8, 1.3 + 0.36 * len(labels)))
    for turn, (group, colour) in enumerate(colours.items()):
        inside = rows[rows["group"] == group]
        lift = 0.2 * (turn - (len(colours) - 1) / 2)  # so that equal values of two groups are both seen
        axes.plot(inside["value"], inside["label"].map(labels.index) + lift, "o", color=colour, alpha=0.7)
    axes.set(xlabel=xlabel, xscale="log" if log else "linear", ylim=(len(labels) - 0.5, -0.5))
    if log:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    elif (rows["value"] % 1 == 0).all():
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(axis="both", alpha=0.3)
    _mark(axes, marks or {})
    _legend(figure, colours, line="")
    return figure


def histograms(values: dict[str, Sequence[float]], xlabel: str, marks: dict[str, float] | None = None) -> Figure:
    """How often each value came up, as a share of each entry of `values`; `marks` are named lines."""
    figure, ((axes,),) = _panels(1, 1, (8, 3.2))
    long = pd.DataFrame(
        [(value, name) for name, of_name in values.items() for value in of_name], columns=["value", "name"]
    )
    discrete = bool((long["value"] % 1 == 0).all())
    more = {"discrete": discrete, "stat": "proportion", "common_norm": False, "element": "step"}
    for (name, inside), colour in zip(long.groupby("name", sort=False), _colours(values).values(), strict=True):
        sns.histplot(inside, x="value", color=colour, label=name, alpha=0.25, ax=axes, **more)
    axes.set(xlabel=xlabel, ylabel="share")
    axes.legend(fontsize=8)
    _mark(axes, marks or {})
    return figure


def roc_and_precision_recall(
    curves: dict[str, Sequence[tuple[Sequence[int], Sequence[float]]]], points: dict[str, metrics.Counts] | None = None
) -> Figure:
    """ROC and precision-recall curves: for each entry the labels and probabilities of every seed, each a thin line.

    `points` are confusion matrices to mark in both panels, such as the paper's. The legends give the median area.
    """
    figure, ((left, right),) = _panels(1, 2, (10, 4.6))
    for (name, seeds), colour in zip(curves.items(), _colours(curves).values(), strict=True):
        for labels, probabilities in seeds:
            roc, curve = metrics.roc(labels, probabilities), metrics.precision_recall(labels, probabilities)
            left.plot(roc["false_positive_rate"], roc["recall"], color=colour, linewidth=1.2, alpha=0.8)
            right.step(curve["recall"], curve["precision"], color=colour, linewidth=1.2, alpha=0.8, where="post")
        for panel, area, short in ((left, metrics.auc, "AUC"), (right, metrics.average_precision, "AP")):
            median = np.median([area(*seed) for seed in seeds])
            panel.plot(
                [],
                [],
                color=colour,
                label=f"{name}: {short} {median:.3f}" if median == median else f"{name}: {short} undefined",
            )
    for (name, counts), marker in zip((points or {}).items(), cycle("o^sDvP*X"), strict=False):
        left.plot(1 - counts.specificity, counts.recall, marker, color=PAPER_COLOUR, label=name)
        right.plot(counts.recall, counts.precision, marker, color=PAPER_COLOUR, label=name)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="false positive rate (1 - specificity)", ylabel="recall", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall")
    for panel in (left, right):
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.legend(fontsize=8)
    return figure


def reliability(curves: dict[str, pd.DataFrame]) -> Figure:
    """Reliability curves, each a frame of `metrics.reliability`; the dotted diagonal is a calibrated network."""
    figure, ((axes,),) = _panels(1, 1, (5.6, 5))
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for (name, curve), colour in zip(curves.items(), _colours(curves).values(), strict=True):
        axes.vlines(curve["predicted"], curve["low"], curve["high"], color=colour, linewidth=1, alpha=0.6)
        axes.plot(
            curve["predicted"], curve["observed"], "o-", color=colour, label=f"{name} ({curve['images'].sum()} images)"
        )
    axes.set(
        xlabel="mean predicted probability",
        ylabel="observed share of positives",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.legend(fontsize=8)
    return figure
