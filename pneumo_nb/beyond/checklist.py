"""What an author must report, and what of it the records know already: CLAIM 2024 and TRIPOD+AI.

Tejani et al. 2024, Radiol. Artif. Intell. 6:e240300 (44 items); Collins et al. 2024, BMJ 385:e078378 (27 items, many
with parts). checklists.csv holds their numbers, our own short words, and the fields of records that answer them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pneumo_nb.train import runs

STATES = {"all": "from your records", "part": "in part from your records: you must write the rest"}
MUST = "you must write"
# Every item: guideline, item, about, fields, covers (all, part or empty), paper (where it says so)
ITEMS = pd.read_csv(Path(__file__).with_name("checklists.csv"), dtype=str, keep_default_na=False)


def table(guideline: str, manifest: pd.DataFrame, about: dict, trained: Sequence[runs.Run]) -> pd.DataFrame:
    """The items of a guideline ("CLAIM 2024" or "TRIPOD+AI") beside the records of a dataset and of runs on it.

    `manifest` and `about` are those of `prepare.read_dataset`. Columns: item, about, state, records (field = value;
    of several runs every value), paper (where it says so). An item of which a field is not known is the author's.
    """
    chosen = ITEMS[ITEMS["guideline"] == guideline]
    if chosen.empty:
        raise ValueError(f"no guideline {guideline!r}; they are {', '.join(ITEMS['guideline'].unique())}")
    rows = []
    for row in chosen.itertuples():
        found = {field: _found(field, manifest, about, trained) for field in row.fields.split()}
        told = "; ".join(f"{field} = {value}" for field, value in found.items() if value)
        state = STATES[row.covers if all(found.values()) else "part"] if told else MUST
        rows.append({"item": row.item, "about": row.about, "state": state, "records": told, "paper": row.paper})
    return pd.DataFrame(rows)


def _found(field: str, manifest: pd.DataFrame, about: dict, trained: Sequence[runs.Run]) -> str:
    """The value of a field as text, of runs every value that occurs; empty if no record has it."""
    kind, *path = field.split(".")
    if kind == "interval":
        values = [(getattr(run.counts, path[0]), *run.counts.interval(path[0])) for run in trained]
        return " | ".join(f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in values)
    found = [about] if kind == "dataset" else [run.record for run in trained]
    if kind == "manifest":
        known = manifest.get(path.pop(), pd.Series(dtype=str)).replace("", None).dropna()
        found = [known.value_counts().sort_index().to_dict()] if len(known) else []
    if kind == "architecture":  # without what does not count for the run's model
        found = [run.settings.architecture() for run in trained]
    for name in path:
        found = [record.get(name) if isinstance(record, dict) else None for record in found]
    return " | ".join(dict.fromkeys(map(_text, found)))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        inner = {name: f"({_text(one)})" if isinstance(one, dict) else _text(one) for name, one in value.items()}
        return ", ".join(f"{name}: {text}" for name, text in inner.items()) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
