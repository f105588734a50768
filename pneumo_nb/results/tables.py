"""Runs as tables beside the paper's; columns against each other, by the predictions of their runs; the five claims."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pneumo_nb import metrics, paper
from pneumo_nb.results import comparisons
from pneumo_nb.settings import DENSENET_FIELDS, TrainSettings
from pneumo_nb.train import runs

CONFIDENCE = 0.05  # two-sided; what Holm's adjustment keeps for the five claims together
ENOUGH_SEEDS = 3  # with fewer, how far trainings of one column lie apart cannot be seen
DRAWS = 4000
FROM_RECORD = ("test_auc", "epoch_reported", "threshold", "device", "seconds")  # a table's columns for runs only
VARIED = set().union(*(column.settings for column in paper.TABLES))  # the settings that tell the paper's columns apart


def on(dataset_hash: str) -> pd.DataFrame:
    """Tables 2-6 with the paper's columns and every finished run on one dataset: one row for each, never averaged.

    `source` is paper or run; `protocol` tells how a run departs from the paper's settings other than what its column
    names; `table` is empty for a run that belongs to none of the paper's columns. Intervals are Wilson's, 95 %.
    """
    rows = [
        {"table": column.table, "column": column.name, "source": "paper", "protocol": "paper"}
        | _with_intervals(metrics.Counts(column.tp, column.fp, column.fn, column.tn))
        for column in paper.TABLES
    ]
    for run in runs.finished(dataset_hash):
        about = {"source": "run", "protocol": protocol(run.settings), "seed": run.settings.seed, "key": run.key}
        more = {name: run.record[name] for name in FROM_RECORD}
        measured = about | more | _with_intervals(run.counts)
        rows += [place | measured for place in _places(run.settings)]
    frame = pd.DataFrame(rows)
    about = ["table", "column", "source", "protocol", "seed", "key"]
    measured = [name for name in frame.columns if name not in (*about, *FROM_RECORD)]
    frame = frame.reindex(columns=[*about, *measured, *FROM_RECORD]).astype({"table": "Int64", "seed": "Int64"})
    places = {column: place for place, column in enumerate(dict.fromkeys(frame["column"]))}
    order = ["table", "column", "source", "protocol", "seed", "key"]
    return frame.sort_values(
        order, key=lambda values: values.map(places) if values.name == "column" else values, ignore_index=True
    )


def protocol(settings: TrainSettings) -> str:
    """How settings depart from the paper's (the defaults), but for the seed and what the tables vary."""
    departs = _departs(settings, set(TrainSettings.model_fields) - VARIED - {"seed"})
    return ", ".join(departs) or "paper"


def fills(column: paper.Column, settings: TrainSettings) -> bool:
    """Whether a run with these settings is a run of that column of the paper's tables."""
    return all(getattr(settings, name) == value for name, value in column.settings.items())


def beside(number: int, trained: dict[str, Sequence[runs.Run]]) -> pd.DataFrame:
    """The rows of `on` for Table `number`: the paper's columns, and these runs, in its columns or in none."""
    runs_shown = [run for column in trained.values() for run in column]
    frame = on(runs_shown[0].record["dataset"]["hash"])
    mine = frame["key"].isin([run.key for run in runs_shown]) & (frame["table"].isna() | (frame["table"] == number))
    return frame[mine | (frame["source"] == "paper") & (frame["table"] == number)]


def _departs(settings: TrainSettings, names: set[str]) -> list[str]:
    usual, these = TrainSettings().model_dump(), settings.model_dump()
    return [f"{name}={these[name]}" for name in these if name in names and these[name] != usual[name]]


def _places(settings: TrainSettings) -> list[dict]:
    """The columns of the paper's tables that these settings fill; without one, a row of no table."""
    places = [{"table": column.table, "column": column.name} for column in paper.TABLES if fills(column, settings)]
    if places:
        return places
    about = [f"n = {settings.scale_factor:g}"]
    if settings.model == "densenet":
        about += _departs(settings, VARIED - {"model", "scale_factor", "depth", "blocks"})
    name = "ResNet34" if settings.model == "resnet34" else f"DenseNet{settings.depth}"
    return [{"table": None, "column": ", ".join([name, *about])}]


def _with_intervals(counts: metrics.Counts) -> dict[str, float]:
    row = counts.row()
    for name in ("accuracy", "precision", "recall", "specificity"):
        row[f"{name}_low"], row[f"{name}_high"] = counts.interval(name)
    return row


def paired(before: Sequence[runs.Run], after: Sequence[runs.Run]) -> pd.DataFrame:
    """One row for each seed: two runs on the same testing set, radiograph by radiograph.

    only_before and only_after count the radiographs that one run alone called right (exact McNemar p: mcnemar_p);
    accuracy, recall, specificity and auc are differences, after - before (auc_p after DeLong).
    """
    rows = []
    for seed, one, other in _by_seed(before, after):
        labels, first, second = _testing(one, other)
        b, c = comparisons.discordant(labels, first >= one.record["threshold"], second >= other.record["threshold"])
        area = comparisons.delong(labels, first, second)
        rows.append(
            {"seed": seed, "only_before": b, "only_after": c, "mcnemar_p": comparisons.mcnemar(b, c)}
            | {name: getattr(other.counts, name) - getattr(one.counts, name) for name in ("accuracy", "recall")}
            | {"auc": area.value, "auc_p": area.p}
        )
    return pd.DataFrame(rows)


def pairs(trained: dict[str, Sequence[runs.Run]], reference: str) -> pd.DataFrame:
    """`paired` of the reference with every other column, one below the other; the index names pair and seed."""
    others = {f"{reference} to {name}": column for name, column in trained.items() if name != reference}
    found = [paired(trained[reference], column).assign(pair=pair) for pair, column in others.items()]
    return pd.concat(found).set_index(["pair", "seed"]) if found else pd.DataFrame()


def difference(before: Sequence[runs.Run], after: Sequence[runs.Run], metric: str) -> comparisons.Difference:
    """Mean difference of accuracy, recall or specificity over the seeds, with a bootstrap over patients and seeds.

    Patients are drawn with all of their radiographs, seeds with both of their runs; the p-value is twice the smaller
    share of draws on one side of zero. NaN where a testing set has none of the radiographs that the metric counts.
    """
    gains, eligible, patients = [], None, None
    for _, one, other in _by_seed(before, after):
        labels, first, second = _testing(one, other)
        eligible = {"accuracy": labels >= 0, "recall": labels == 1, "specificity": labels == 0}[metric]
        right = [(q >= run.record["threshold"]) == labels for q, run in ((first, one), (second, other))]
        gains.append((right[1].astype(int) - right[0].astype(int)) * eligible)
        patients = one.predictions.query("split == 'test'")["patient_id"].to_numpy()
    if not gains or not eligible.any():
        return comparisons.Difference(*[float("nan")] * 4)
    gains = np.array(gains)  # (seeds, images): 1 where only `after` is right, -1 where only `before` is
    generator = np.random.default_rng(0)
    names, owner = np.unique(patients, return_inverse=True)
    images = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)[:, owner]
    seeds = generator.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), DRAWS)
    sizes = (images * eligible).sum(axis=1)
    drawn = ((seeds @ gains) * images).sum(axis=1)[sizes > 0] / sizes[sizes > 0] / len(gains)
    low, high = np.quantile(drawn, (CONFIDENCE / 2, 1 - CONFIDENCE / 2))
    p = min(1.0, 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()))
    return comparisons.Difference(float(gains.sum() / eligible.sum() / len(gains)), float(low), float(high), float(p))


def differences(trained: dict[str, Sequence[runs.Run]], reference: str) -> pd.DataFrame:
    """Every column minus the reference: columns label, panel (the metric), value, low, high, p, for a forest plot."""
    rows = [
        {"label": f"{name} - {reference}", "panel": metric} | difference(trained[reference], column, metric)._asdict()
        for name, column in trained.items()
        if name != reference
        for metric in ("accuracy", "recall", "specificity")
    ]
    return pd.DataFrame(rows, columns=["label", "panel", *comparisons.Difference._fields])


def claims(dataset_hash: str) -> pd.DataFrame:
    """The paper's claims on every finished run of a dataset, one row for each claim and protocol.

    Columns claim, metric, protocol, seeds (as many as have both runs), paper (its difference), value, low, high, p,
    holm_p (over the claims tested with one recipe) and verdict: `supported` or `contradicted` if Holm's p is below 0.05
    and the difference has the claim's sign or the other, and at least three seeds were trained; else `cannot tell`.
    """
    finished = runs.finished(dataset_hash)
    recipes = {}  # the claims that Holm adjusts together
    for run in finished:
        recipes.setdefault(_recipe(run.settings), {}).setdefault(protocol(run.settings), []).append(run)
    rows = []
    for protocols in recipes.values():
        tested = [row for recipe_protocol, trained in protocols.items() for row in _tested(recipe_protocol, trained)]
        defined = [row for row in tested if row["p"] == row["p"]]
        for row, adjusted in zip(defined, comparisons.holm([row["p"] for row in defined]), strict=True):
            row["holm_p"] = float(adjusted)
        rows += tested
    frame = pd.DataFrame(
        rows, columns=["claim", "metric", "protocol", "seeds", "paper", "value", "low", "high", "p", "holm_p"]
    )
    return frame.assign(verdict=[verdict(row.value, row.holm_p, row.seeds) for row in frame.itertuples()])


def _recipe(settings: TrainSettings) -> str:
    """The protocol but for what only DenseNets have, so that all five claims are adjusted together."""
    return protocol(settings.varied(**TrainSettings().model_dump(include=DENSENET_FIELDS)))


def _tested(told: str, trained: Sequence[runs.Run]) -> list[dict]:
    rows = []
    for claim in paper.CLAIMS:
        columns = claim.before, claim.after
        before, after = ([run for run in trained if fills(column, run.settings)] for column in columns)
        if seeds := len(_by_seed(before, after)):
            about = {"claim": claim.name, "metric": claim.metric, "protocol": told, "seeds": seeds}
            found = difference(before, after, claim.metric)._asdict()
            rows.append(about | {"paper": claim.difference} | found)
    return rows


def verdict(difference: float, holm_p: float, seeds: int) -> str:
    """`supported`, `contradicted` or `cannot tell`; the rule stands in `claims`."""
    if seeds < ENOUGH_SEEDS or not holm_p < CONFIDENCE:
        return "cannot tell"
    return "supported" if difference > 0 else "contradicted"


def _by_seed(before: Sequence[runs.Run], after: Sequence[runs.Run]) -> list[tuple[int, runs.Run, runs.Run]]:
    firsts, seconds = ({run.settings.seed: run for run in column} for column in (before, after))
    return [(seed, firsts[seed], seconds[seed]) for seed in sorted(firsts.keys() & seconds.keys())]


def _testing(one: runs.Run, other: runs.Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and both runs' probabilities on the testing set, (images,); a ValueError if the sets differ."""
    first, second = (run.predictions.query("split == 'test'") for run in (one, other))
    if first["image_id"].tolist() != second["image_id"].tolist():
        raise ValueError(f"runs {one.key} and {other.key} were not tested on the same radiographs")
    return first["label"].to_numpy(), first["probability"].to_numpy(), second["probability"].to_numpy()
