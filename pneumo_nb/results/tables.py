"""Runs as tables beside the paper's; columns against each other, by the predictions of their runs; the five claims."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pneumo_nb import metrics, paper
from pneumo_nb.results import comparisons
from pneumo_nb.settings import DENSENET_FIELDS, TrainSettings
from pneumo_nb.train import reference, runs

CONFIDENCE = 0.05  # two-sided; what Holm's adjustment keeps for the five claims together
ENOUGH_SEEDS = 3  # with fewer, how far trainings of one column lie apart cannot be seen
DRAWS = 4000
MEASURED = ("accuracy", "precision", "recall", "f1", "auc")  # what `over_seeds` tells of
FROM_RECORD = ("test_auc", "epoch_reported", "threshold", "device", "seconds")  # a table's columns for runs only
ORDER = ["table", "column", "source", "dataset", "protocol", "seed", "key"]  # the first columns of `on`, and its order
VARIED = set().union(*(column.settings for column in paper.TABLES))  # the settings that tell the paper's columns apart


def on(*dataset_hashes: str) -> pd.DataFrame:
    """Tables 2-6 with the paper's columns and every finished run on these datasets: one row for each, never averaged.

    `source` is paper or run; `protocol` tells how a run departs from the paper's settings other than what its column
    names; `table` is empty for a run that belongs to none of the paper's columns. Intervals are Wilson's, 95 %.
    """
    columns, rows = dict.fromkeys(ORDER, np.nan), []
    for column in paper.TABLES:
        place = {"table": column.table, "column": column.name, "source": "paper", "protocol": "paper"}
        counts = metrics.Counts(column.tp, column.fp, column.fn, column.tn)
        rows.append(columns | place | _with_intervals(counts) | dict.fromkeys(FROM_RECORD, np.nan))
    for run in runs.finished(*dataset_hashes):
        row = {"source": "run", "dataset": run.record["dataset"]["name"], "protocol": protocol(run.settings)}
        row |= {"seed": run.settings.seed, "key": run.key} | _with_intervals(run.counts)
        row |= {name: run.record[name] for name in FROM_RECORD}
        rows += [place | row for place in _places(run.settings)]
    frame = pd.DataFrame(rows).astype({"table": "Int64", "seed": "Int64"})
    return frame.sort_values(ORDER, key=lambda of: of.factorize()[0] if of.name == "column" else of, ignore_index=True)


def of_reference(name: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """What `on` and `claims` gave for the reference of that name, such as `study`; None where it is not kept."""
    folder = reference.folder(name)
    if not (folder / "claims.csv").is_file():
        return None
    kept, found = (pd.read_csv(folder / f"{table}.csv", dtype={"dataset": str}) for table in ("tables", "claims"))
    return kept.astype({"table": "Int64", "seed": "Int64"}), found


def protocol(settings: TrainSettings) -> str:
    """How settings depart from the paper's (the defaults), but for the seed and what the tables vary."""
    return ", ".join(_departs(settings, set(TrainSettings.model_fields) - VARIED - {"seed"})) or "paper"


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
        for value in sorted(set(known) - {""}):
            shown = tested[(tested["label"] == 0) | (known == value)]
            counts = shown.groupby("label")["patient_id"].nunique()
            area = metrics.auc(shown["label"], shown["probability"])
            rows.append((column, run.settings.seed, value, area, counts[1], counts.get(0, 0)))
    return pd.DataFrame(rows, columns=["column", "seed", "value", "auc", "positives", "negatives"])


def over_seeds(trained: Sequence[runs.Run], draws: int = 400) -> pd.DataFrame:
    """For each dataset (its name and hash), protocol, column and metric: the paper's value, and these runs of it.

    Columns seeds (how many), median, and low to high, the 95 % interval of the mean over the seeds: seeds are drawn
    anew, and patients of the testing set, each with all radiographs. NaN where undefined.
    """
    groups = {}
    for run in trained:
        of = run.record["dataset"]
        for column in (column for column in paper.TABLES if fills(column, run.settings)):
            about = of["name"], of["hash"], protocol(run.settings), column.table, column.name
            groups.setdefault(about, (column, []))[1].append(run)
    rows = []
    for about, (column, seeds) in sorted(groups.items()):
        tested = [_called(run) for run in seeds]
        patients, labels, sure = tested[0]["patient_id"], tested[0]["label"], [test["sure"] for test in tested]
        generator, means = np.random.default_rng(0), []
        for drawn, *margins in comparisons.resampled(patients, labels, *sure, draws=draws):
            of_seed = np.array([_measured(drawn, margin) for margin in margins])
            means.append(of_seed[generator.integers(len(margins), size=len(margins))].mean(axis=0))
        own = pd.DataFrame([_measured(labels, margin) for margin in sure], columns=MEASURED)
        low, high = pd.DataFrame(means).quantile(comparisons.ENDS).to_numpy()
        for metric, *interval in zip(MEASURED, low, high, strict=True):
            rows.append((*about, metric, getattr(column, metric, np.nan), len(seeds), own[metric].median(), *interval))
    names = ["dataset", "hash", "protocol", "table", "column", "metric", "paper", "seeds", "median", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def _measured(labels: Sequence[int], sure: Sequence[float]) -> list[float]:
    """MEASURED of one run; `sure` as in `_called`."""
    counts = metrics.Counts.of(labels, np.asarray(sure) >= 0)
    return [*(getattr(counts, metric) for metric in MEASURED[:-1]), metrics.auc(labels, sure)]


def _departs(settings: TrainSettings, names: set[str]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.model_dump(include=names, exclude_defaults=True).items()]


def _places(settings: TrainSettings) -> list[dict]:
    """The columns of the paper's tables that these settings fill; without one, a row of no table."""
    places = [{"table": column.table, "column": column.name} for column in paper.TABLES if fills(column, settings)]
    about = [f"n = {settings.scale_factor:g}"]
    if settings.model == "densenet":
        about += _departs(settings, VARIED - {"model", "scale_factor", "depth", "blocks"})
    name = {"resnet34": "ResNet34", "inception_v3": "Inception-V3"}.get(settings.model, f"DenseNet{settings.depth}")
    return places or [{"table": None, "column": ", ".join([name, *about])}]


def _with_intervals(counts: metrics.Counts) -> dict[str, float]:
    row = counts.row()
    for name in ("accuracy", "precision", "recall", "specificity"):
        row[f"{name}_low"], row[f"{name}_high"] = counts.interval(name)
    return row


def paired(before: Sequence[runs.Run], after: Sequence[runs.Run]) -> pd.DataFrame:
    """One row for each seed: two runs on the same testing set, radiograph by radiograph.

    only_before and only_after count the radiographs that one run alone called right (exact McNemar p: mcnemar_p);
    accuracy, recall and auc are differences, after - before (auc_p after DeLong).
    """
    rows = []
    for seed, first, second in _by_seed(before, after):
        gain = second["right"].astype(int) - first["right"]
        b, c = int((gain < 0).sum()), int((gain > 0).sum())
        area = comparisons.delong(first["label"], first["probability"], second["probability"])
        recall = gain[first["label"] == 1].mean()
        rows.append((seed, b, c, comparisons.mcnemar(b, c), gain.mean(), recall, area.value, area.p))
    names = ["seed", "only_before", "only_after", "mcnemar_p", "accuracy", "recall", "auc", "auc_p"]
    return pd.DataFrame(rows, columns=names)


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
    paired_runs = _by_seed(before, after)
    labels = paired_runs[0][1]["label"].to_numpy() if paired_runs else np.empty(0)
    eligible = {"accuracy": labels >= 0, "recall": labels == 1, "specificity": labels == 0}[metric]
    if not eligible.any():
        return comparisons.Difference(*[float("nan")] * 4)
    # (seeds, images): 1 where only `after` is right, -1 where only `before` is
    gains = np.array([second["right"].astype(int) - first["right"] for _, first, second in paired_runs]) * eligible
    generator = np.random.default_rng(0)
    names, owner = np.unique(paired_runs[0][1]["patient_id"], return_inverse=True)
    images = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)[:, owner]
    seeds = generator.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), DRAWS)
    sizes = (images * eligible).sum(axis=1)
    drawn = ((seeds @ gains) * images).sum(axis=1)[sizes > 0] / sizes[sizes > 0] / len(gains)
    low, high = np.quantile(drawn, comparisons.ENDS)
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
    `contradicted`, by the difference's sign, if Holm's p is below 0.05 with three seeds or more; else `cannot tell`.
    """
    usual = TrainSettings().model_dump(include=DENSENET_FIELDS)
    groups = {}
    for run in runs.finished(*dataset_hashes):
        dataset, recipe = run.record["dataset"], protocol(run.settings.varied(**usual))  # but for DenseNets' own
        about = dataset["hash"], recipe, dataset["name"], protocol(run.settings)
        groups.setdefault(about, []).append(run)
    rows = []
    for about, trained in sorted(groups.items()):
        for claim in paper.CLAIMS:
            columns = claim.before, claim.after
            before, after = ([run for run in trained if fills(column, run.settings)] for column in columns)
            if seeds := len(_by_seed(before, after)):
                found = difference(before, after, claim.metric)
                rows.append((*about, claim.name, claim.metric, seeds, claim.difference, *found))
    names = ["hash", "recipe", "dataset", "protocol", "claim", "metric", "seeds", "paper", "value", "low", "high", "p"]
    frame = pd.DataFrame(rows, columns=names)
    frame["holm_p"] = frame.dropna(subset="p").groupby(["hash", "recipe"])["p"].transform(comparisons.holm)
    sure = (frame["seeds"] >= ENOUGH_SEEDS) & (frame["holm_p"] < CONFIDENCE)
    frame["verdict"] = np.where(sure, np.where(frame["value"] > 0, "supported", "contradicted"), "cannot tell")
    return frame[["claim", "metric", *names[2:4], *names[6:], "holm_p", "verdict"]]


def told(found: pd.DataFrame) -> pd.DataFrame:
    """`claims` to be read: p and holm_p as text, such as `< 0.00025` where no draw lay on the other side of zero."""
    signs = np.where(found["p"] * (DRAWS + 1) < 2, "< ", "")
    return found.assign(**{name: signs + found[name].map("{:.3g}".format).astype(str) for name in ("p", "holm_p")})


def of_most_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """Of `claims`, each claim, dataset and way of evaluating by the protocol of most seeds.

    A column more, `evaluated_with`, tells whose mean and SD batch normalisation took: training_set, or running.
    """
    ways = found["protocol"].str.extract(r"norm_statistics=(\w+)")[0].fillna(TrainSettings().norm_statistics)
    most = found.assign(evaluated_with=ways).sort_values("seeds", ascending=False, kind="stable")
    return most.drop_duplicates(["claim", "dataset", "evaluated_with"]).sort_values(["dataset", "evaluated_with"])


def study_summary(found: pd.DataFrame) -> str:
    """The study's `claims` in Markdown, in percentage points, as `of_most_seeds` chooses them."""
    most = of_most_seeds(told(found))
    names = "claim", "the paper", "dataset", "evaluated with", "here (95 % interval)", "Holm's p", "seeds", "verdict"
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for claim in paper.CLAIMS:
        for row in most[most["claim"] == claim.name].itertuples():
            value, low, high = (f"{100 * part:+.1f}" for part in (row.value, row.low, row.high))
            cells = f"{claim.name}: {claim.metric}", f"{100 * claim.difference:+.1f}", row.dataset
            cells += row.evaluated_with.replace("_", " "), f"{value} ({low} to {high})", row.holm_p, str(row.seeds)
            lines.append(f"| {' | '.join((*cells, row.verdict))} |")
    return "\n".join(lines)


def _by_seed(before: Sequence[runs.Run], after: Sequence[runs.Run]) -> list[tuple[int, pd.DataFrame, pd.DataFrame]]:
    """Of each seed that both have, the two runs' predictions on the testing set; a ValueError if the sets differ."""
    firsts, seconds = ({run.settings.seed: run for run in column} for column in (before, after))
    found = [(seed, _called(firsts[seed]), _called(seconds[seed])) for seed in sorted(firsts.keys() & seconds.keys())]
    for seed, first, second in found:
        if first["image_id"].tolist() != second["image_id"].tolist():
            raise ValueError(f"runs {firsts[seed].key} and {seconds[seed].key} were not tested on the same radiographs")
    return found


def _called(run: runs.Run) -> pd.DataFrame:
    """Predictions on the testing set; `sure` is how far above the threshold, `right` whether the run's call is."""
    tested = run.predictions.query("split == 'test'")
    sure = tested["probability"] - run.record["threshold"]
    return tested.assign(sure=sure, right=(sure >= 0) == tested["label"])
