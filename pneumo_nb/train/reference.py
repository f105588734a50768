"""Runs that are kept with the project: what was measured once, at full size, in few small files and without weights.

`outputs/reference/<name>/` holds records.json, predictions.csv.xz and history.csv.xz of all its runs, images.csv.xz
with what is known of each radiograph, README.md and the tables that were made of the runs.
"""

import io
import json
import lzma
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from pneumo_nb import metrics, paths

IMAGE = ["image_id", "patient_id", "split", "label"]
TRUTH = ["stage", "letter", "profusion", "large"]  # where a dataset's source tells them
AS_TEXT = dict.fromkeys(["of", "image_id", "patient_id", *TRUTH], str)
RUNS, IMAGES, PREDICTIONS, HISTORY = "records.json", "images.csv.xz", "predictions.csv.xz", "history.csv.xz"


def folder(name: str) -> Path:
    """Where the reference of that name lies."""
    return paths.root() / "outputs" / "reference" / name


def records() -> dict[str, tuple[str, dict]]:
    """Each run of every reference by its key: the reference's name and the run's record."""
    files = sorted(folder("").glob(f"[!.]*/{RUNS}"))
    return {record["key"]: (file.parent.name, record) for file in files for record in read(file)}


def predictions(name: str, key: str) -> pd.DataFrame:
    """The predictions of one run as its own folder holds them: image_id, patient_id, split, label, probability."""
    return images(name, key)[IMAGE].merge(_by_key(name, PREDICTIONS)[key], on="image_id", validate="one_to_one")


def history(name: str, key: str) -> pd.DataFrame:
    """One row for each epoch of one run; numbers have six digits."""
    found = _by_key(name, HISTORY)[key]
    return found if found.get("validation_loss", pd.Series()).notna().any() else found.filter(regex="^(?!validation_)")


def images(name: str, key: str) -> pd.DataFrame:
    """The radiographs of the dataset of one run, in the order of its manifest; the truth as text, empty if unknown."""
    return _by_key(name, IMAGES)[records()[key][1]["dataset"]["hash"]]


def write(name: str, trained: Sequence[Any], readme: str = "", **tables: pd.DataFrame) -> Path:
    """Add runs (`runs.Run`) to the reference `name`, each file whole; returns its folder. `tables` become NAME.csv.

    What it holds already stays, but for runs of another format than the new ones: equal settings mean other numbers
    there. Equal runs give equal bytes. A ValueError if a run's counts do not follow from what is stored of it.
    """
    if not trained or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"reference {name!r} of {len(trained)} runs: small letters, digits and hyphens, and runs, do")
    formats = {run.record["format"] for run in trained}
    told = {key: record for key, (of, record) in records().items() if of == name and record["format"] in formats}
    kept = {part: dict(_by_key(name, part)) if told else {} for part in (IMAGES, PREDICTIONS, HISTORY)}
    for run in trained:
        if run.key not in told:
            told[run.key], found = run.record, run.predictions
            exact = found["probability"].map("{:.9g}".format).astype(float)  # every bit of a float32
            kept[PREDICTIONS][run.key] = found[["image_id"]].assign(probability=exact)
            kept[HISTORY][run.key] = run.history
            kept[IMAGES][run.record["dataset"]["hash"]] = found[IMAGE].join(run.truth(), on="image_id")
            of_test = found["split"] == "test"
            counts = metrics.Counts.of(found["label"][of_test], exact[of_test] >= run.record["threshold"])
            if counts != run.counts:
                raise ValueError(f"run {run.key}: its record says {run.counts}, its predictions {counts}")
    hashes, files = {record["dataset"]["hash"] for record in told.values()}, {}
    for part, keys, digits in ((IMAGES, hashes, None), (PREDICTIONS, told, "%.9g"), (HISTORY, told, "%.6g")):
        frame = pd.concat({key: kept[part][key] for key in sorted(keys)}, names=["of"]).reset_index("of")
        files[part] = lzma.compress(frame.to_csv(index=False, float_format=digits).encode(), preset=9)
    files |= {f"{title}.csv": table.to_csv(index=False, float_format="%.6g") for title, table in tables.items()}
    files |= {"README.md": readme, RUNS: json.dumps([told[key] for key in sorted(told)], indent=1) + "\n"}
    for file, content in files.items():  # the records last: what they do not name is not there
        paths.write(folder(name) / file, content)
    return folder(name)


def _by_key(name: str, part: str) -> dict[str, pd.DataFrame]:
    file = folder(name) / part
    return _parts(file, file.stat().st_mtime_ns, file.stat().st_ino)


@lru_cache(maxsize=8)
def _parts(file: Path, *_: int) -> dict[str, pd.DataFrame]:  # the numbers change whenever the file does
    content = io.BytesIO(lzma.decompress(file.read_bytes()))
    frame = pd.read_csv(content, dtype=AS_TEXT, na_filter=file.name == HISTORY)  # undefined metrics; no name is "NA"
    return {key: part.drop(columns="of").reset_index(drop=True) for key, part in frame.groupby("of")}


def read(file: Path) -> Any:
    """What a file of records holds; a ValueError names one that is damaged."""
    try:
        return json.loads(file.read_text())
    except ValueError:
        what = f"{file.name} of {file.parent.name!r} is damaged"
        raise ValueError(f"{what}: remove its folder, or take it again from where it came") from None
