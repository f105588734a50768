"""Every plot that several notebooks draw: plain data in, a matplotlib Figure out that no matplotlibrc changes."""

import io
from collections.abc import Sequence
from itertools import cycle
from string import ascii_lowercase

import numpy as np
import pandas as pd
import PIL.Image
import seaborn as sns
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pneumo_nb import metrics

PALETTE = sns.color_palette("colorblind")
PAPER_COLOUR = PALETTE[3]
LIKE_THE_PAPER = {PALETTE[1], PALETTE[3], PALETTE[5]}  # orange and brown: hard to tell from it in a small picture
METRICS = ("accuracy", "precision", "recall", "f1")
LETTER = 0.08  # inches across a letter of a label


def ours():
    """A decorator, or a `with` block, in which matplotlib's own defaults hold, whatever its user has set."""
    return style.context("default")


class FigureByDefaults(Figure):
    """A figure that is drawn, too, under `ours`: fonts and layout are decided as late as that."""

    draw = ours()(Figure.draw)
    get_tightbbox = ours()(Figure.get_tightbbox)
    savefig = ours()(Figure.savefig)


@ours()
def panels(rows: int, columns: int, size: tuple[float, float], **more) -> tuple[Figure, np.ndarray]:
    """A figure of that size in inches and its (rows, columns) axes; unknown to pyplot, so a notebook shows it once."""
    figure = FigureByDefaults(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def jpeg(figure: Figure, quality: int = 50) -> bytes:
    """The figure as a JPEG file: for sheets of pictures, several times smaller than the PNG that a notebook keeps."""
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", dpi=100, pil_kwargs={"quality": quality})
    return content.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 256 colours: for plots, several times smaller than the PNG that a notebook keeps."""
    content, small = io.BytesIO(), io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    full = PIL.Image.open(content).convert("RGB")
    full.quantize(method=PIL.Image.Quantize.MAXCOVERAGE).save(small, format="png", optimize=True)  # rare ones kept too
    return small.getvalue()


@ours()
def radiograph(axes, image: np.ndarray, title: str = "") -> None:
    """Draw one (height, width) radiograph, black to white over its own range of bits."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=np.iinfo(image.dtype).max)
    axes.set_title(title, fontsize=9)
    axes.axis("off")


@ours()
def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 6, width: float = 1.7) -> Figure:
    """Radiographs, or RGB pictures, side by side, each with its title and `width` inches wide."""
    rows = max(1, -(-len(images) // columns))
    height = width * images[0].shape[0] / images[0].shape[1] if len(images) else width
    figure, shown = panels(rows, columns, (width * columns, (height + 0.25) * rows))
    for panel in shown.flat:
        panel.axis("off")
    for panel, image, title in zip(shown.flat, images, titles, strict=False):
        radiograph(panel, image, title)
    return figure


@ours()
def figure_7(histories: dict[str, Sequence[pd.DataFrame]]) -> Figure:
    """Figure 7: the training process, two panels for each entry: loss and accuracy; precision, recall and F1 score.

    `histories` maps a heading ("n = 1") to all seeds' histories: thin lines, their median thick; training dashed.
    """
    figure, shown = panels(len(histories), 2, (10, 3.3 * len(histories)))
    letters = cycle(ascii_lowercase)
    for row, (heading, seeds) in zip(shown, histories.items(), strict=True):
        for panel, names in zip(row, (("loss", "accuracy"), ("precision", "recall", "f1")), strict=True):
            for colour, name in zip(PALETTE, names, strict=False):
                of_both = [("test", "testing", "-"), ("train", "training", "--")]
                for split, part, line in of_both if name in ("loss", "accuracy") else of_both[:1]:
                    curves = pd.concat([seed.set_index("epoch")[f"{split}_{name}"] for seed in seeds], axis=1)
                    panel.plot(curves, line, color=colour, linewidth=0.6, alpha=0.5)
                    panel.plot(curves.median(axis=1), line, color=colour, linewidth=2, label=f"{part} {name}")
            panel.set(title=f"({next(letters)}) {heading}: {', '.join(names)}", xlabel="epoch", ylim=(0, None))
            panel.legend(fontsize=8)
    return figure


def beside_the_paper(rows: pd.DataFrame) -> Figure:
    """A panel for each metric: the paper's value and every seed's of this run, with Wilson's 95 % intervals.

    `rows` are as of `tables.on`: source, column, seed, each metric, and `<metric>_low` and `<metric>_high` but of F1.
    """
    whose = ["paper" if row.source == "paper" else f"seed {row.seed}" for row in rows.itertuples()]
    rows = rows.assign(label=rows["column"] + ", " + whose, group=rows["source"].replace("run", "this run"))
    of_each = []
    for metric in METRICS:
        ends = {end: rows.get(f"{metric}_{end}", np.nan) for end in ("low", "high")}
        of_each.append(rows.assign(panel={"f1": "F1 score"}.get(metric, metric), value=rows[metric], **ends))
    return intervals(pd.concat(of_each), xlim=(-0.03, 1.03))


def _colours(groups: Sequence[str]) -> dict[str, tuple]:
    """A colour for each group in the order of appearance; "paper" has the paper's, no other one like it."""
    names = list(dict.fromkeys(groups))
    taken = LIKE_THE_PAPER if "paper" in names else {PAPER_COLOUR}
    others = cycle([colour for colour in PALETTE if colour not in taken])
    return {name: PAPER_COLOUR if name == "paper" else next(others) for name in names}


def _lined(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with group and panel, empty where they had none, the line of their label and the colour of their group."""
    rows = rows.assign(**{name: "" for name in ("group", "panel") if name not in rows})
    return rows.assign(line=rows["label"].factorize()[0], colour=rows["group"].map(_colours(rows["group"])))


def _framed(rows: pd.DataFrame, size: tuple[float, float], xlabel: str, grid: str, legend: str, **shared) -> tuple:
    """A figure for `_lined` rows and its axes, one for each panel: labels at the left, groups named below."""
    labels, names, colours = rows["label"].unique(), rows["panel"].unique(), _colours(rows["group"])
    figure, (shown,) = panels(1, len(names), size, sharey=True, **shared)
    for axes, name in zip(shown, names, strict=True):
        axes.set(title=name, xlabel=xlabel)
        axes.grid(axis=grid, alpha=0.3)
    shown[0].set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    if len(colours) > 1:
        handles = [Line2D([], [], marker="o", color=of, linestyle=legend, label=name) for name, of in colours.items()]
        room = int(size[0] / LETTER / (6 + max(map(len, colours))))  # as many in a row as find room
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), max(1, room)), fontsize=9)
    return figure, shown


@ours()
def _said(sentence: str) -> Figure:
    """A figure that says in words why there is none."""
    figure, ((axes,),) = panels(1, 1, (6, 0.6))
    axes.text(0, 0.5, sentence)
    axes.axis("off")
    return figure


@ours()
def intervals(
    rows: pd.DataFrame, xlabel: str = "", at: float | None = None, xlim: tuple[float, float] | None = None
) -> Figure:
    """A forest plot: each row's value as a dot on its interval, from top to bottom.

    `rows` has the columns label, value, low, high, and may have group (a colour) and panel (side by side). Rows with
    one label lie close together. `at` draws a line, such as 0 for no difference. NaN is written out as undefined.
    """
    if rows.empty:
        return _said("nothing to compare: there is one column only")
    rows = _lined(rows)
    turn = rows.groupby(["panel", "label"]).cumcount()
    crowd, lines, names = turn.max() + 1, rows["line"].max() + 1, rows["panel"].nunique()
    rows["height"] = rows["line"] + (turn - (crowd - 1) / 2) * 0.7 / crowd
    width = LETTER * rows["label"].str.len().max() + max(5.0, 2.3 * names)
    figure, shown = _framed(rows, (min(12, width), 1.1 + 0.3 * lines * crowd**0.7), xlabel, "x", "-")
    for panel, (_, inside) in zip(shown, rows.groupby("panel", sort=False), strict=True):
        for row in inside.itertuples():
            panel.plot([row.low, row.high], [row.height] * 2, color=row.colour)
            panel.plot(row.value, row.height, "o", color=row.colour, markersize=5)
            if np.isnan(row.value):
                place = panel.get_yaxis_transform()
                panel.text(0.5, row.height, "undefined", transform=place, ha="center", va="center")
        if at is not None:
            panel.axvline(at, color="black", linewidth=0.8)
        panel.set_xlim(xlim)
        panel.xaxis.set_major_locator(MaxNLocator(4 if names > 1 else 8))
    return figure


@ours()
def dots(rows: pd.DataFrame, xlabel: str, marks: dict[str, float] | None = None, log: bool = False) -> Figure:
    """Every row as a dot on the line of its label, each group a little apart, so that equal values are all seen.

    `rows` has the columns label, value, and may have group and panel as in `intervals`; `marks` are named lines.
    """
    rows = _lined(rows)
    size = (8 if rows["panel"].nunique() == 1 else 10, 1.3 + 0.36 * (rows["line"].max() + 1))
    figure, shown = _framed(rows, size, xlabel, "both", "", sharex=True)
    for panel, (_, inside) in zip(shown, rows.groupby("panel", sort=False), strict=True):
        groups = inside.groupby("group", sort=False)
        for turn, (_, of_group) in enumerate(groups):
            lift = (turn - (len(groups) - 1) / 2) * min(0.2, 0.7 / len(groups))
            panel.plot(of_group["value"], of_group["line"] + lift, "o", color=of_group["colour"].iloc[0], alpha=0.7)
        for line, (mark, value) in zip(("--", ":", "-."), (marks or {}).items(), strict=False):
            panel.axvline(value, color="black", linestyle=line, linewidth=1.2, label=mark)
    if log:
        shown[0].set_xscale("log")
        shown[0].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    elif (rows["value"] % 1 == 0).all():
        shown[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    if marks:
        shown[0].legend(fontsize=8)
    return figure


def by_truth(found: dict[str, pd.DataFrame]) -> Figure:
    """AUC by what is known of the disease, with its patients: a panel for each entry of `tables.by_truth` with rows."""
    rows = pd.concat([rows.assign(panel=f"by {by}") for by, rows in found.items()])
    if rows.empty:
        return _said("stage and letter of these radiographs are not known")
    group = [f"{row.value} ({row.positives} patients)" for row in rows.itertuples()]
    return dots(rows.assign(label=rows["column"], group=group, value=rows["auc"]), "AUC against all negatives")


@ours()
def roc_and_precision_recall(
    curves: dict[str, Sequence[tuple[Sequence[int], Sequence[float]]]], points: dict[str, metrics.Counts] | None = None
) -> Figure:
    """ROC and precision-recall curves: for each entry the labels and probabilities of every seed, each a thin line.

    `points` are confusion matrices to mark in both panels, such as the paper's. The legends give the median area.
    """
    names = [*curves, *(points or {})]
    columns = 1 if max(map(len, names)) > 20 else 2
    figure, ((left, right),) = panels(1, 2, (10, 4.8 + 0.2 * len(names) / columns))
    for (name, seeds), colour in zip(curves.items(), _colours(curves).values(), strict=True):
        for labels, probabilities in seeds:
            roc, curve = metrics.roc(labels, probabilities), metrics.precision_recall(labels, probabilities)
            left.plot(roc["false_positive_rate"], roc["recall"], color=colour, linewidth=1.2, alpha=0.8)
            right.step(curve["recall"], curve["precision"], color=colour, linewidth=1.2, alpha=0.8, where="post")
        for panel, area, short in ((left, metrics.auc, "AUC"), (right, metrics.average_precision, "AP")):
            told = f"{np.median([area(*seed) for seed in seeds]):.3f}".replace("nan", "undefined")
            panel.plot([], [], color=colour, label=f"{name}: {short} {told}")
    for (name, counts), marker in zip((points or {}).items(), cycle("o^sDvP*X"), strict=False):
        left.plot(1 - counts.specificity, counts.recall, marker, color=PAPER_COLOUR, label=name)
        right.plot(counts.recall, counts.precision, marker, color=PAPER_COLOUR, label=name)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="false positive rate (1 - specificity)", ylabel="recall", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall")
    for panel in (left, right):
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, fontsize=8, ncols=columns)
    return figure
