"""Every item of the guidelines is there, and each cell filled from a record follows that record."""

import copy
import re

import pandas as pd
import pytest

from pneumo_nb.beyond import checklist
from pneumo_nb.settings import PrepareSettings, TrainSettings
from pneumo_nb.train.runs import Run

ABOUT = {
    "hash": "c0ffee",
    "settings": PrepareSettings().model_dump(),
    "counts": {
        "found": 12, "accepted": 10, "rejected": 2, "reasons": {"it is empty": 2}, "patients": 9,
        "parts": {"train": {"0": 5, "1": 2}, "test": {"0": 2, "1": 1}}, "suspected_text": 0,
    },
    "overlap": 0, "overlap_of_pictures": 0, "patients_from": {"the labels CSV": 10},
    "known": {"stage": 3, "view": 10, "spacing_mm": 10, "acquired": 0},
}  # fmt: skip
MANIFEST = pd.DataFrame(
    {"view": ["PA", "AP"], "photometric": "MONOCHROME2", "bits": 12, "spacing_mm": [3.2, 3.1], "stage": ["I", ""]}
)
RECORD = {
    "key": "abcd", "settings": TrainSettings().model_dump(), "epoch_reported": 40, "threshold": 0.5, "test_auc": 0.9,
    "test": {"tp": 3, "fp": 2, "fn": 1, "tn": 9}, "device": "CPU", "versions": {"pneumo_nb": "1.0", "torch": "2.13"},
}  # fmt: skip
OTHERS = TrainSettings.of(
    loss="focal", scale_factor=2, epochs=3, batch_size=3, learning_rate=0.1, weight_decay=0.1, flip=0.1,
    precision="tf32", initial_weights="other.safetensors", seed=3, image_size=32, fit="pad", normalisation="imagenet",
    epoch_reported="best_test", threshold=0.3,
)  # fmt: skip
GUIDELINES = ("CLAIM 2024", "TRIPOD+AI")
FIELDS = sorted({field for cell in checklist.ITEMS["fields"] for field in cell.split()})


def filled(manifest=MANIFEST, about=ABOUT, record=RECORD):
    tables = [checklist.table(name, manifest, about, [Run("abcd", record)]).assign(of=name) for name in GUIDELINES]
    return pd.concat(tables).set_index(["of", "item"])


BEFORE = filled()


def test_all_44_items_of_claim_and_all_27_of_tripod_are_there():
    by_guideline = checklist.ITEMS.groupby("guideline")["item"].agg(list)
    assert by_guideline["CLAIM 2024"] == [str(number) for number in range(1, 45)]
    numbers = [re.sub("[a-z]", "", item) for item in by_guideline["TRIPOD+AI"]]
    assert list(dict.fromkeys(numbers)) == [str(number) for number in range(1, 28)]
    assert len(numbers) == len(set(by_guideline["TRIPOD+AI"])) == 52


def test_each_cell_says_where_it_is_from_or_that_you_must_write():
    table = BEFORE
    known = table["records"] != ""
    assert set(table["state"]) == {*checklist.STATES.values(), checklist.MUST}
    assert (table["state"][~known] == checklist.MUST).all() and (table["state"][known] != checklist.MUST).all()
    assert 20 <= known["CLAIM 2024"].sum() <= 30 and known["TRIPOD+AI"].sum() >= 11
    assert "run.settings.loss = label; run.settings.scale_factor = 5" in table.loc[("TRIPOD+AI", "13"), "records"]


def changed(record, path):
    """The record with another value in that place."""
    record = copy.deepcopy(record)
    inner = record
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = getattr(OTHERS, path[1]) if path[0] == "settings" and "key" in record else other(inner[path[-1]])
    return record


def other(value):
    if isinstance(value, dict):
        return {name: other(each) for name, each in value.items()}
    return value + 1 if type(value) is int else "another"


@pytest.mark.parametrize("field", FIELDS)
def test_a_filled_cell_changes_when_its_record_does_and_no_other_cell(field):
    kind, *path = field.split(".")
    if kind == "manifest":
        after = filled(manifest=MANIFEST.assign(**{path[0]: "another"}))
    elif kind == "interval":
        after = filled(record=RECORD | {"test": {"tp": 2, "fp": 3, "fn": 2, "tn": 8}})
    elif kind == "architecture":
        after = filled(record=RECORD | {"settings": TrainSettings(model="densenet").model_dump()})
    else:
        after = filled(**({"about": changed(ABOUT, path)} if kind == "dataset" else {"record": changed(RECORD, path)}))
    differs = set(after.index[after["records"] != BEFORE["records"]])
    of_field = checklist.ITEMS.set_index(["guideline", "item"])["fields"].str.split()
    names = {(guideline, item) for (guideline, item), fields in of_field.items() if field in fields}
    assert names <= differs
    if kind in ("dataset", "manifest"):
        assert names == differs


def test_a_field_that_no_record_has_is_left_to_the_author():
    bare = filled(manifest=MANIFEST.drop(columns=list(MANIFEST)), about={"hash": "c0ffee"})
    assert bare.loc[("CLAIM 2024", "19"), "state"] == checklist.MUST
    assert bare.loc[("CLAIM 2024", "9"), "state"] == checklist.STATES["part"]


def test_several_runs_show_every_value():
    runs = [Run(str(seed), changed(RECORD, ["key"]) | {"test_auc": seed / 10}) for seed in (7, 8)]
    table = checklist.table("CLAIM 2024", MANIFEST, ABOUT, runs).set_index("item")
    assert "run.test_auc = 0.7 | 0.8" in table.loc["37", "records"]


def test_an_unknown_guideline_is_named():
    with pytest.raises(ValueError, match="no guideline 'STARD'; they are CLAIM 2024, TRIPOD"):
        checklist.table("STARD", MANIFEST, ABOUT, [])
