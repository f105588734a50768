"""Runs as tables beside the paper's; columns against each other, by the predictions of their runs; the five claims.

Floats in the CSVs that are made of these tables have six digits.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from pneumo_nb import metrics, paper, paths
from pneumo_nb.results import comparisons
from pneumo_nb.settings import DENSENET_FIELDS, TrainSettings
from pneumo_nb.train import runs

CONFIDENCE = 0.05  # two-sided; what Holm's adjustment keeps for the five claims together
ENOUGH_SEEDS = 3  # with fewer, how far trainings of one column lie apart cannot be seen
DRAWS = 4000
FROM_RECORD = ("test_auc", "epoch_reported", "threshold", "device", "seconds")  # a table's columns for runs only
ORDER = ["table", "column", "source", "dataset", "protocol", "seed", "key"]  # the first columns of `on`, and its order
VARIED = set().union(*(column.settings for column in paper.TABLES))  # the settings that tell the paper's columns apart


def on(*dataset_hashes: str) -> pd.DataFrame:
    """Tables 2-6 with the paper's columns and every finished run on these datasets: one row for each, never averaged.

    `source` is paper or run; `protocol` tells how a run departs from the paper's settings other than what its column
    names; `table` is empty for a run that belongs to none of the paper's columns. Intervals are Wilson's, 95 %.
    """
    rows = [
        {"table": column.table, "column": column.name, "source": "paper", "protocol": "paper"}
        | _with_intervals(metrics.Counts(column.tp, column.fp, column.fn, column.tn))
        for column in paper.TABLES
    ]
    for run in (run for dataset_hash in dataset_hashes for run in runs.finished(dataset_hash)):
        about = {"dataset": run.record["dataset"]["name"], "protocol": protocol(run.settings)}
        about |= {"source": "run", "seed": run.settings.seed, "key": run.key}
        more = {name: run.record[name] for name in FROM_RECORD}
        measured = about | more | _with_intervals(run.counts)
        rows += [place | measured for place in _places(run.settings)]
    frame = pd.DataFrame(rows)
    measured = [name for name in frame.columns if name not in (*ORDER, *FROM_RECORD)]
    frame = frame.reindex(columns=[*ORDER, *measured, *FROM_RECORD]).astype({"table": "Int64", "seed": "Int64"})
    places = {column: place for place, column in enumerate(dict.fromkeys(frame["column"]))}
    return frame.sort_values(
        ORDER, key=lambda values: values.map(places) if values.name == "column" else values, ignore_index=True
    )


def of_reference(name: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """What `on` and `claims` gave for the reference of that name, such as `study`; None where it is not kept."""
    files = [paths.root() / "outputs" / "reference" / name / f"{table}.csv" for table in ("tables", "claims")]
    if not all(file.is_file() for file in files):
        return None
    kept, found = (pd.read_csv(file, dtype={"dataset": str}) for file in files)
    return kept.astype({"table": "Int64", "seed": "Int64"}), found


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


def by_truth(trained: dict[str, Sequence[runs.Run]], by: str) -> pd.DataFrame:
    """AUC on the testing set by what is known of the disease: `by` is stage, letter or profusion (its highest zone's).

    One row for each column, seed and value: auc of the positives with that value against all negatives, and how many
    patients are behind it: positives, negatives. No rows where the dataset does not tell.
    """
    rows = []
    for column, run in ((column, run) for column, seeds in trained.items() for run in seeds):
        tested = run.predictions.query("split == 'test'")
        known = tested["image_id"].map(run.truth()[by]).fillna("").where(tested["label"] == 1, "")
        if by == "profusion":
            known = known.map(lambda zones: max(zones.split(), default=""))
        negative = tested["label"] == 0
        for value in sorted(set(known) - {""}):
            shown = tested[negative | (known == value)]
            counts = shown.groupby("label")["patient_id"].nunique()
            rows.append(
                {"column": column, "seed": run.settings.seed, "value": value}
                | {"auc": metrics.auc(shown["label"], shown["probability"])}
                | {"positives": counts[1], "negatives": counts.get(0, 0)}
            )
    return pd.DataFrame(rows, columns=["column", "seed", "value", "auc", "positives", "negatives"])


def over_seeds(trained: Sequence[runs.Run], draws: int = 400) -> pd.DataFrame:
    """For each dataset, protocol, column of the paper and metric: the paper's value, and these runs of it.

    Columns seeds (how many), median, lowest, highest, and low to high, the 95 % interval of the mean over the seeds:
    seeds are drawn anew, and patients of the testing set, each with all radiographs. NaN where undefined.
    """
    groups = {}
    for run in trained:
        for column in (column for column in paper.TABLES if fills(column, run.settings)):
            about = run.record["dataset"]["name"], protocol(run.settings), column.table, column.name
            groups.setdefault(about, (column, []))[1].append(run)
    rows = []
    for about, (column, seeds) in sorted(groups.items(), key=lambda group: group[0]):
        tested = [run.predictions.query("split == 'test'") for run in seeds]
        sure = [test["probability"] - run.record["threshold"] for run, test in zip(seeds, tested, strict=True)]
        for metric in ("accuracy", "precision", "recall", "f1", "auc"):
            own = pd.Series([_measured(tested[0]["label"], margin, metric) for margin in sure])
            statistic = partial(_mean_of_drawn, np.random.default_rng(0), metric)
            drawn = comparisons.bootstrap(statistic, tested[0]["patient_id"], tested[0]["label"], *sure, draws=draws)
            rows.append(
                dict(zip(("dataset", "protocol", "table", "column"), about, strict=True))
                | {"metric": metric, "paper": getattr(column, metric, np.nan), "seeds": len(seeds)}
                | {"median": own.median(), "lowest": own.min(), "highest": own.max()}
                | {"low": drawn.low, "high": drawn.high}
            )
    return pd.DataFrame(rows)


def _measured(labels: Sequence[int], sure: Sequence[float], metric: str) -> float:
    """A metric of one run; `sure` is how far each probability lies above the run's threshold."""
    if metric == "auc":
        return metrics.auc(labels, sure)
    return getattr(metrics.Counts.of(labels, np.asarray(sure) >= 0), metric)


def _mean_of_drawn(generator: np.random.Generator, metric: str, labels: np.ndarray, *sure: np.ndarray) -> float:
    drawn = generator.integers(len(sure), size=len(sure))
    return float(np.mean([_measured(labels, sure[place], metric) for place in drawn]))


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
    name = {"resnet34": "ResNet34", "inception_v3": "Inception-V3"}.get(settings.model, f"DenseNet{settings.depth}")
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

    Patients are drawn with all of their radiographs, seeds with both of their runs. With k twice the smaller number of
    draws on one side of zero, p is (k + 1) / (draws + 1) and never 0 (after Phipson and Smyth 2010, Stat. Appl. Genet.
    Mol. Biol. 9:39). NaN where a testing set has none of the radiographs that the metric counts.
    """
    gains, eligible, patients = [], None, None
    for _, one, other in _by_seed(before, after):
        labels, first, second = _testing(one, other)
        eligible = {"accuracy": labels >= 0, "recall": labels == 1, "specificity": labels == 0}[metric]
        right = [(q >= run.record["threshold"]) == labels for q, run in ((first, one), (second, other))]
        gains.append((right[1].astype(int) - right[0].astype(int)) * eligible)
        patients = one.predictions.query("split == 'test'")["patient_id"]
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
    p = min(1.0, (2 * min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1))
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


def claims(*dataset_hashes: str) -> pd.DataFrame:
    """The paper's claims on every finished run of these datasets, one row for each claim, dataset and protocol.

    Columns claim, metric, dataset (its name), protocol, seeds (as many as have both runs), paper (its difference),
    value, low, high, p, holm_p (over the claims tested on one dataset with one recipe) and verdict: `supported` or
    `contradicted` if Holm's p is below 0.05 and the difference has the claim's sign or the other, and at least three
    seeds were trained; else `cannot tell`.
    """
    recipes = {}  # the claims that Holm adjusts together
    for run in (run for dataset_hash in dataset_hashes for run in runs.finished(dataset_hash)):
        dataset = run.record["dataset"]
        together = recipes.setdefault((dataset["hash"], _recipe(run.settings)), {})
        together.setdefault((dataset["name"], protocol(run.settings)), []).append(run)
    rows = []
    for protocols in recipes.values():
        tested = [row for about, trained in protocols.items() for row in _tested(*about, trained)]
        defined = [row for row in tested if row["p"] == row["p"]]
        for row, adjusted in zip(defined, comparisons.holm([row["p"] for row in defined]), strict=True):
            row["holm_p"] = float(adjusted)
        rows += tested
    names = ["claim", "metric", "dataset", "protocol", "seeds", "paper", "value", "low", "high", "p", "holm_p"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(verdict=[verdict(row.value, row.holm_p, row.seeds) for row in frame.itertuples()])


def _recipe(settings: TrainSettings) -> str:
    """The protocol but for what only DenseNets have, so that all five claims are adjusted together."""
    return protocol(settings.varied(**TrainSettings().model_dump(include=DENSENET_FIELDS)))


def _tested(dataset: str, departs: str, trained: Sequence[runs.Run]) -> list[dict]:
    rows = []
    for claim in paper.CLAIMS:
        columns = claim.before, claim.after
        before, after = ([run for run in trained if fills(column, run.settings)] for column in columns)
        if seeds := len(_by_seed(before, after)):
            about = {"claim": claim.name, "metric": claim.metric, "dataset": dataset, "protocol": departs}
            about |= {"seeds": seeds, "paper": claim.difference}
            rows.append(about | difference(before, after, claim.metric)._asdict())
    return rows


def verdict(difference: float, holm_p: float, seeds: int) -> str:
    """`supported`, `contradicted` or `cannot tell`; the rule stands in `claims`."""
    if seeds < ENOUGH_SEEDS or not holm_p < CONFIDENCE:
        return "cannot tell"
    return "supported" if difference > 0 else "contradicted"


def told(found: pd.DataFrame) -> pd.DataFrame:
    """`claims` to be read: p and holm_p as text, such as `< 0.00025` where no draw lay on the other side of zero."""
    signs = np.where(found["p"] * (DRAWS + 1) < 2, "< ", "")
    return found.assign(**{name: signs + found[name].map("{:.2g}".format) for name in ("p", "holm_p")})


def study_summary(found: pd.DataFrame) -> str:
    """The study's `claims` as one table in Markdown: of each claim and dataset the protocol with the most seeds.

    Differences are in percentage points, with their 95 % intervals.
    """
    most = told(found).sort_values("seeds", ascending=False, kind="stable").drop_duplicates(["claim", "dataset"])
    lines = ["| claim | the paper | dataset | here (95 % interval) | Holm's p | seeds | verdict |", "|---" * 7 + "|"]
    for claim in paper.CLAIMS:
        for row in most[most["claim"] == claim.name].sort_values("dataset").itertuples():
            value, low, high = (f"{100 * part:+.1f}" for part in (row.value, row.low, row.high))
            cells = f"{claim.name}: {claim.metric}", f"{100 * claim.difference:+.1f}", row.dataset
            cells += f"{value} ({low} to {high})", row.holm_p, str(row.seeds), row.verdict
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_seed(before: Sequence[runs.Run], after: Sequence[runs.Run]) -> list[tuple[int, runs.Run, runs.Run]]:
    firsts, seconds = ({run.settings.seed: run for run in column} for column in (before, after))
    return [(seed, firsts[seed], seconds[seed]) for seed in sorted(firsts.keys() & seconds.keys())]


def _testing(one: runs.Run, other: runs.Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and both runs' probabilities on the testing set, (images,); a ValueError if the sets differ."""
    first, second = (run.predictions.query("split == 'test'") for run in (one, other))
    if first["image_id"].tolist() != second["image_id"].tolist():
        raise ValueError(f"runs {one.key} and {other.key} were not tested on the same radiographs")
    return first["label"].to_numpy(), first["probability"].to_numpy(), second["probability"].to_numpy()
