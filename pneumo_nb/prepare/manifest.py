"""What preparing leaves to be read: manifest.csv, rejects.csv, dataset.json, and their counts in a few lines."""

import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any

from pneumo_nb import paths
from pneumo_nb.prepare.labels import DISEASE
from pneumo_nb.prepare.splits import leak_groups, overlap, split
from pneumo_nb.settings import PrepareSettings

FORMAT = 3  # of the prepared folder; another number makes every dataset be prepared anew
MANIFEST = ["image_id", "file", "patient_id", "label", *DISEASE, "split"]
MANIFEST += ["width", "height", "original_width", "original_height", "bits", "photometric", "view", "spacing_mm"]
MANIFEST += ["acquired", "suspected_text", "source_sha256", "sha256"]
COUNTED = ["position", "image_id", "patient_id", "label", "stage", "view", "spacing_mm", "sha256", "uid"]
COUNTED += ["patient_from", "body_part", "acquired"]
NUMBERS = ["large", "diameter_mm", "largest_mm", "spacing_mm"]  # or nothing
REJECTS = ["file", "position", "reason"]


def read_dataset(name: str) -> tuple[Any, dict]:
    """Manifest (a DataFrame, labels as text) and dataset.json of a prepared dataset; ValueError names what there is."""
    import pandas as pd

    folder = paths.finished(name)
    as_text = dict.fromkeys(("label", "stage", "profusion", "letter", "view", "photometric"), str)
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False, dtype=as_text)
    for column in NUMBERS:
        manifest[column] = pd.to_numeric(manifest[column], errors="coerce")
    return manifest, json.loads((folder / "dataset.json").read_text())


def summary(dataset: dict) -> str:
    """The counts of a dataset.json in a few lines: found, accepted, rejected by reason, the parts, and what leaks."""
    counts, used = dataset["counts"], dataset["settings"]["split"]
    lines = [f"{counts['found']} files found: {counts['accepted']} accepted, {counts['rejected']} rejected"]
    lines += [f"  {number} rejected: {reason}" for reason, number in counts["reasons"].items()]
    for part, by_label in counts["parts"].items():
        shown = ", ".join(f"{number} {_class(label)}" for label, number in by_label.items())
        lines.append(f"{part}: {sum(by_label.values())} images, {shown}")
    if counts["duplicates"]:
        where = f"; {dataset['overlap_of_pictures']} pictures are in training and in testing" * (used == "given")
        lines.append(f"{counts['duplicates']} images show the same picture as another one{where}")
    if counts["uids_of_two_pictures"]:
        lines.append(f"{counts['uids_of_two_pictures']} SOPInstanceUIDs are borne by files with different pictures")
    if counts.get("suspected_text"):
        where = f", cropped in data/suspected_text/{dataset['name']}/" if "name" in dataset else ""
        lines.append(f"text seems to be burned into {counts['suspected_text']} radiographs{where}: look at them")
    if "test" in counts["parts"]:
        leaked, patients = dataset["overlap"], counts["test_patients"]
        lines.append(f"{leaked} of the {patients} patients of the test part are also in training")
    return "\n".join(lines)


def _class(label: str) -> str:
    return {"0": "negative", "1": "positive"}.get(label, "unlabelled")


def outcome(
    entries: Iterable[dict], files: list[str], rows: dict | None, settings: PrepareSettings
) -> tuple[dict[str, list], dict]:
    """Split the accepted images; returns columns of the manifest, and what dataset.json tells of them.

    `entries` hold, for each of `files`, its part of the manifest or the reason why it became no image; they are gone
    through several times and never held at once. ValueError: none was accepted, or a class is too small to split.
    """
    reasons = Counter(entry["reason"] for entry in entries if "reason" in entry)
    reasons = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    columns = _columns(entry for entry in entries if "reason" not in entry)
    if not columns["label"]:
        shown = "; ".join(f"{number}: {reason}" for reason, number in list(reasons.items())[:3])
        raise ValueError(f"none of the {len(files)} files became an image ({shown})")
    columns["split"] = _parts(columns, [files[p - 1] for p in columns["position"]], rows, settings)
    known = {column: sum(value != "" for value in columns[column]) for column in ("stage", "view", "spacing_mm")}
    text = {"suspected_text": sum(bool(entry.get("suspected_text")) for entry in entries)}
    return columns, {
        "settings": settings.model_dump(),
        "counts": _counts(columns, len(files), reasons) | text,
        "overlap": overlap(columns),
        "overlap_of_pictures": overlap(columns, "sha256"),
        "patients_from": dict(sorted(Counter(columns["patient_from"]).items())),
        "known": known | {"acquired": sum(value != "" for value in columns["acquired"])},
    }


def write(folder: Path, entries: Iterable[dict], columns: dict[str, list], told: dict) -> None:
    """Write the three files; `columns` and `told` are what `outcome` says of `entries`, `told` with more of its own."""
    parts = iter(columns["split"])
    accepted = (entry | {"split": next(parts)} for entry in entries if "reason" not in entry)
    manifest_sha256 = _write_csv(folder / "manifest.csv", MANIFEST, accepted)
    _write_csv(folder / "rejects.csv", REJECTS, (entry for entry in entries if "reason" in entry))
    settings_digest = PrepareSettings.of(**told["settings"]).digest()
    told = told | {"hash": hashlib.sha256(f"{manifest_sha256} {settings_digest}".encode()).hexdigest()}
    (folder / "dataset.json").write_text(json.dumps(told, indent=1) + "\n")


def _columns(accepted: Iterable[dict]) -> dict[str, list]:
    """What splitting and counting need to know of all images at once; the rest stays on disk."""
    columns: dict[str, list] = {column: [] for column in COUNTED}
    for entry in accepted:
        for column, values in columns.items():
            values.append(sys.intern(entry[column]) if isinstance(entry[column], str) else entry[column])
    return columns


def _parts(columns: dict[str, list], files: list[str], rows: dict | None, settings: PrepareSettings) -> list[str]:
    if rows is None:
        return ["none"] * len(files)
    if settings.split == "given":
        return [rows[file].split for file in files]
    found = columns["label"]
    if len(set(found)) < 2:
        raise ValueError(f"all accepted radiographs have label {found[0]}: both classes are needed")
    if settings.split == "paper":
        return split(found, columns["sha256"], settings)
    return split(found, leak_groups(columns["patient_id"], columns["sha256"]), settings)


def _counts(columns: dict[str, list], found: int, reasons: dict[str, int]) -> dict:
    parts: dict[str, dict[str, int]] = {}
    for (part, label), number in sorted(Counter(zip(columns["split"], columns["label"], strict=True)).items()):
        parts.setdefault(part, {})[label] = number
    accepted, in_test = len(columns["label"]), [part == "test" for part in columns["split"]]
    return {
        "found": found,
        "accepted": accepted,
        "rejected": found - accepted,
        "reasons": reasons,
        "parts": parts,
        "patients": len(set(columns["patient_id"])),
        "test_patients": len(set(compress(columns["patient_id"], in_test))),
        "duplicates": accepted - len(set(columns["sha256"])),
        "duplicates_with_two_labels": _ambiguous(columns["sha256"], columns["label"]),
        "uids_of_two_pictures": _ambiguous(columns["uid"], columns["sha256"]),
        "body_part_guessed": columns["body_part"].count("guessed"),
    }


def _ambiguous(names: Iterable[str], values: Iterable[str]) -> int:
    """How many names come with more than one value; no name ('') does not count."""
    pairs = {pair for pair in zip(names, values, strict=True) if pair[0]}
    return sum(number > 1 for number in Counter(name for name, _ in pairs).values())


def _write_csv(path: Path, columns: list[str], rows: Iterable[dict]) -> str:
    """Write a table; returns the SHA-256 of the file."""
    with path.open("w", newline="", encoding="ascii") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
