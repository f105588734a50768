import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from pneumo_nb import metrics, paper, paths
from pneumo_nb.results import comparisons, figures, tables
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import runs

LABELS = np.array([1] * 20 + [0] * 60)


def stored(right, seed=0, labels=LABELS, patients=None, dataset="toy", **settings):
    """A finished run whose calls on the testing set are right where `right` says so."""
    labels, right = np.asarray(labels), np.asarray(right, dtype=bool)
    called = np.where(right, labels, 1 - labels)
    predictions = pd.DataFrame(
        {
            "image_id": [f"r{index}" for index in range(len(labels))],
            "patient_id": patients if patients is not None else [f"p{index}" for index in range(len(labels))],
            "split": "test",
            "label": labels,
            "probability": np.where(called == 1, 0.8, 0.2) + np.linspace(0, 0.01, len(labels)),
        }
    )
    these = TrainSettings.of(seed=seed, **settings)
    counts = metrics.Counts.of(labels, called)
    record = {
        "format": runs.RUN_FORMAT,
        "settings": these.model_dump(),
        "dataset": {"name": dataset, "hash": dataset},
        "threshold": 0.5,
        "test_auc": metrics.auc(labels, predictions["probability"]),
        "epoch_reported": 1,
        "device": "CPU",
        "seconds": 1.5,
        "test": {name: getattr(counts, name) for name in ("tp", "fp", "fn", "tn")},
    }
    key = runs.key(these, dataset)
    paths.runs(key).mkdir(parents=True, exist_ok=True)
    predictions.to_csv(paths.runs(key) / "predictions.csv", index=False)
    (paths.runs(key) / "record.json").write_text(json.dumps(record))
    return runs.load(key)


def right(wrong, of=LABELS):
    return np.arange(len(of)) >= wrong  # the first ones, positives, are missed


def test_two_runs_are_compared_radiograph_by_radiograph(home):
    before = stored(np.isin(np.arange(80), [0, 1, 30, 31, 32], invert=True), scale_factor=1)
    after = stored(np.isin(np.arange(80), [0, 30, 40], invert=True), scale_factor=5)
    (row,) = tables.paired([before], [after]).to_dict("records")
    assert (row["seed"], row["only_before"], row["only_after"]) == (0, 1, 3)
    assert row["mcnemar_p"] == comparisons.mcnemar(1, 3)
    assert row["accuracy"] == pytest.approx(2 / 80) and row["recall"] == pytest.approx(1 / 20)
    assert -1 <= row["auc"] <= 1 and 0 <= row["auc_p"] <= 1


def test_runs_are_paired_by_their_seeds(home):
    before = [stored(right(4), seed, scale_factor=1) for seed in (0, 1, 2)]
    after = [stored(right(2), seed, scale_factor=5) for seed in (2, 1, 7)]
    assert tables.paired(before, after)["seed"].tolist() == [1, 2]


def test_runs_on_different_testing_sets_are_refused(home):
    before, after = stored(right(4), scale_factor=1), stored(right(2, LABELS[1:]), labels=LABELS[1:], scale_factor=5)
    with pytest.raises(ValueError, match="not tested on the same radiographs"):
        tables.paired([before], [after])


def test_a_difference_is_the_mean_over_seeds_within_its_interval(home):
    before = [stored(right(6), seed, scale_factor=1) for seed in range(3)]
    after = [stored(right(wrong), seed, scale_factor=5) for seed, wrong in enumerate((1, 2, 3))]
    found = tables.difference(before, after, "recall")
    assert found.value == pytest.approx((5 + 4 + 3) / 3 / 20)
    assert 0 < found.low < found.value < found.high and found.p < 0.05
    assert tables.difference(after, before, "recall").value == pytest.approx(-found.value)
    assert tables.difference(before, after, "specificity")[:3] == (0, 0, 0)
    assert tables.difference(before, after, "accuracy").value == pytest.approx(found.value / 4)


def test_seeds_that_disagree_widen_the_interval(home):
    before = [stored(right(8), seed, scale_factor=1) for seed in range(4)]
    agree = [stored(right(4), seed, scale_factor=5) for seed in range(4)]
    differ = [stored(right(wrong), seed, scale_factor=3) for seed, wrong in enumerate((0, 8, 0, 8))]
    narrow, wide = (tables.difference(before, after, "recall") for after in (agree, differ))
    assert narrow.value == wide.value and wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_images_of_one_patient_are_drawn_together(home):
    alone = stored(right(8), scale_factor=1), stored(right(4), scale_factor=5)
    patients = [f"p{index // 4}" for index in range(80)]
    together = [stored(right(wrong), seed=1, patients=patients, scale_factor=n) for n, wrong in ((1, 8), (5, 4))]
    narrow, wide = (tables.difference([one], [other], "recall") for one, other in (alone, together))
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_without_common_seeds_or_eligible_images_a_difference_is_undefined(home):
    one, other = stored(right(4), 0, scale_factor=1), stored(right(4), 1, scale_factor=5)
    assert np.isnan(tables.difference([one], [other], "accuracy")).all()
    negatives = [stored(np.ones(9), labels=np.zeros(9, dtype=int), scale_factor=n) for n in (1, 5)]
    assert np.isnan(tables.difference(*([run] for run in negatives), "recall")).all()


def test_every_column_is_set_against_the_reference(home):
    trained = {
        "a": [stored(right(4), scale_factor=1)],
        "b": [stored(right(2), scale_factor=5)],
        "c": [stored(right(4), scale_factor=3)],
    }
    pairs = tables.pairs(trained, "a")
    assert pairs.index.tolist() == [("a to b", 0), ("a to c", 0)]
    assert pairs["only_after"].tolist() == [2, 0]
    rows = tables.differences(trained, "a")
    assert rows["label"].tolist() == ["b - a"] * 3 + ["c - a"] * 3
    assert rows.loc[3:, "value"].tolist() == [0, 0, 0]


def test_the_claims_of_a_dataset_are_judged_by_the_stated_rule(home):
    for seed in range(3):
        stored(right(14), seed, scale_factor=1)
        stored(right(2), seed, scale_factor=5)  # supports balanced training
        stored(right(0), seed, **(paper.DENSENET | {"drop_rate": 0.25}))
        stored(right(15), seed, **paper.DENSENET)  # contradicts that dropout costs accuracy
        stored(right(14), seed, **(paper.DENSENET | {"reduction": 1.0}))  # one image: cannot tell
    stored(right(20), 0, **(paper.DENSENET | {"bottleneck": False}))  # five images, but one seed
    found = tables.claims("toy").set_index("claim")
    assert found["verdict"].to_dict() == {
        "balanced training": "supported",
        "no dropout": "contradicted",
        "lower reduction": "cannot tell",
        "bottleneck blocks": "cannot tell",
    }
    assert found.loc["bottleneck blocks", "seeds"] == 1 and (found["holm_p"] >= found["p"]).all()
    printed = {claim.name: claim.difference for claim in paper.CLAIMS}
    assert found["paper"].to_dict() == {name: printed[name] for name in found.index}


def test_runs_of_different_protocols_are_never_compared(home):
    stored(right(14), scale_factor=1, epochs=3)
    stored(right(2), scale_factor=5, epochs=7)
    assert tables.claims("toy").empty and tables.claims("nothing").empty
    assert "verdict" in tables.told(tables.claims("nothing")).columns


def test_claims_on_resnet34_and_on_densenets_are_adjusted_together_but_not_those_of_another_recipe(home):
    def both(**more):
        for seed in range(3):
            stored(right(14), seed, scale_factor=1, **more)
            stored(right(9), seed, scale_factor=5, **more)
            for rate, wrong in ((0.25, 9), (0.0, 5)):
                stored(right(wrong), seed, **(paper.DENSENET | {"drop_rate": rate, "stem": "7x7"} | more))

    both()
    alone = tables.claims("toy")
    assert alone["protocol"].nunique() == 2
    assert alone["holm_p"].to_list() == comparisons.holm(alone["p"].to_list()).tolist() != alone["p"].to_list()
    both(epochs=3)
    again = tables.claims("toy")
    assert len(again) == 2 * len(alone)
    assert again[again["protocol"].isin(alone["protocol"])].reset_index(drop=True).equals(alone)


def test_a_single_column_has_nothing_to_be_compared_with(home):
    trained = {"a": [stored(right(4), scale_factor=1)]}
    assert tables.pairs(trained, "a").empty and tables.differences(trained, "a").empty
    assert figures.intervals(tables.differences(trained, "a"), "difference", at=0).axes


def test_the_claims_of_two_datasets_stand_apart_and_are_adjusted_apart(home):
    for seed, name in product(range(3), ("marked", "screening")):
        stored(right(14), seed, dataset=name, scale_factor=1)
        stored(right(2 if name == "marked" else 15), seed, dataset=name, scale_factor=5)
    both = tables.claims("marked", "screening")
    assert both["dataset"].tolist() == ["marked", "screening"] and both["holm_p"].tolist() == both["p"].tolist()
    assert both[both["dataset"] == "screening"].reset_index(drop=True).equals(tables.claims("screening"))
    every = tables.on("marked", "screening")
    assert every["dataset"].value_counts().to_dict() == {"marked": 6, "screening": 6}
    assert (every["source"] == "paper").sum() == len(paper.TABLES)


def test_no_bootstrap_p_is_zero_and_the_least_is_told_as_a_bound(home):
    for seed in range(3):
        stored(right(20), seed, scale_factor=1)
        stored(right(0), seed, scale_factor=5)
    found = tables.claims("toy")
    assert found["p"].tolist() == [1 / (tables.DRAWS + 1)]
    assert tables.told(found)[["p", "holm_p"]].iloc[0].tolist() == ["< 0.00025"] * 2
    text = tables.told(found.assign(p=0.03, holm_p=0.12))
    assert text[["p", "holm_p"]].iloc[0].tolist() == ["0.03", "0.12"]


def test_over_seeds_a_column_is_its_median_within_its_interval(home):
    trained = [stored(right(wrong), seed, scale_factor=5) for seed, wrong in enumerate((2, 4, 12))]
    trained.append(stored(right(4), scale_factor=3))  # of no column
    found = tables.over_seeds(trained, draws=60).set_index("metric")
    assert found["column"].unique() == ["ResNet34, n = 5"] and (found["seeds"] == 3).all()
    recall = found.loc["recall"]
    assert (
        recall["median"] == 16 / 20 and recall["low"] < recall["median"] < recall["high"] and recall["paper"] == 0.607
    )
    assert np.isnan(found.loc["auc", "paper"]) and found.loc["precision", ["low", "high"]].tolist() == [1, 1]
    anew = stored(right(20), 3, dataset="anew", scale_factor=5)
    anew.record["dataset"]["name"] = trained[0].record["dataset"]["name"]  # prepared again by the same name
    both = tables.over_seeds([*trained, anew], draws=60)
    assert both.groupby("hash")["seeds"].unique().map(list).to_dict() == {
        trained[0].record["dataset"]["hash"]: [3],
        "anew": [1],
    }
    nobody = tables.over_seeds([stored(LABELS == 0, 5, scale_factor=5)], draws=60).set_index("metric")
    assert nobody.loc["precision", ["median", "low", "high"]].isna().all()


def test_auc_by_truth_sets_the_positives_of_each_value_against_all_negatives(home, monkeypatch):
    run = stored(right(4), patients=[f"p{max(index - 1, 0)}" for index in range(80)], scale_factor=5)  # p0 has two
    truth = pd.DataFrame({"stage": "", "letter": "", "profusion": ""}, index=run.predictions["image_id"])
    truth.loc[["r0", "r1"], "stage"] = "I"  # two of the four that were missed, of one patient
    truth.loc["r5", "stage"] = truth.loc["r30", "stage"] = "II"  # r30 is a negative
    truth.loc[["r0", "r5"], "profusion"] = ["0 1 0 3 0 0", "1 1 1 1 0 0"]
    monkeypatch.setattr(runs.Run, "truth", lambda _: truth, raising=False)
    rows = tables.by_truth({"n = 5": [run]}, "stage")
    assert rows[["column", "seed", "value", "positives", "negatives"]].to_numpy().tolist() == [
        ["n = 5", 0, "I", 1, 60],
        ["n = 5", 0, "II", 1, 60],
    ]
    first, second = rows["auc"]
    assert first < 0.1 and second == 1
    assert tables.by_truth({"n = 5": [run]}, "profusion")["value"].tolist() == ["1", "3"]
    assert tables.by_truth({"n = 5": [run]}, "letter").empty
