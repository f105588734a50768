"""What preparing leaves to be read: manifest.csv, rejects.csv, dataset.json, and their counts in a few lines."""

import csv
import hashlib
import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pneumo_nb.prepare.sources import DISEASE
from pneumo_nb.prepare.splits import REMEDY, leak_groups, overlap, split
from pneumo_nb.settings import PrepareSettings

FORMAT = 3  # of the prepared folder; another number makes every dataset be prepared anew
MANIFEST = ["image_id", "file", "patient_id", "label", *DISEASE, "split"]
MANIFEST += ["width", "height", "original_width", "original_height", "bits", "photometric", "view", "spacing_mm"]
MANIFEST += ["acquired", "suspected_text", "grey_range", "faulty", "contradiction", "source_sha256", "sha256"]
COUNTED = ["position", "image_id", "patient_id", "label", "stage", "view", "spacing_mm", "sha256", "uid"]
COUNTED += ["patient_from", "body_part", "acquired", "grey_range", "faulty", "contradiction"]
LISTED = {  # what a person should look at: a column of the manifest, and what `summary` says of how many have it
    "grey_range": "are shown nearly flat, since the greys that they use are not known",
    "contradiction": "have headers that contradict themselves (--set polarity=photometric overrules the shape)",
    "faulty": "have faulty elements, which were left out",
}
REJECTS = ["file", "position", "reason"]
CLASSES = {"0": "negative", "1": "positive", "": "unlabelled"}
UNKNOWN, PLACEHOLDER = "nothing: each image its own patient", "a placeholder, taken for one patient"
MANY, SHARE = 8, 0.1  # images of one patient, also as a share of all: from both on it may be no patient


class Journal:
    """What converting tells of each file, on disk: found again after a kill, and never all in memory.

    Entries have a position from 1 on, in the order of which they are read back; of two for one the last counts. Each is
    a JSON line; one that a kill cut short counts as not written.
    """

    def __init__(self, path: Path, positions: int):
        self._file = path.open("a+b")
        self._places = array("q", [-1]) * (positions + 1)
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._places[json.loads(line)["position"]] = end
            end += len(line)
        self._file.truncate(end)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: dict) -> None:
        """Append `entry`, which has a "position"; once this returns, a kill of this process cannot undo it."""
        self._places[entry["position"]] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def __iter__(self) -> Iterator[dict]:
        for place in self._places:
            if place >= 0:
                self._file.seek(place)
                yield json.loads(self._file.readline())


def summary(dataset: dict) -> str:
    """The counts of a dataset.json in a few lines: found, accepted, rejected by reason, the parts, and what leaks."""
    counts, used = dataset["counts"], dataset["settings"]["split"]
    lines = [f"{counts['found']} files found: {counts['accepted']} accepted, {counts['rejected']} rejected"]
    lines += [f"  {number} rejected: {reason}" for reason, number in counts["reasons"].items()]
    for part, by_label in counts["parts"].items():
        shown = ", ".join(f"{number} {CLASSES[label]}" for label, number in by_label.items())
        lines.append(f"{part}: {sum(by_label.values())} images, {shown}")
    if counts["duplicates"]:
        where = f"; {dataset['overlap_of_pictures']} pictures are in training and in testing" * (used == "given")
        lines.append(f"{counts['duplicates']} images show the same picture as another one{where}")
    if counts["uids_of_two_pictures"]:
        lines.append(f"{counts['uids_of_two_pictures']} SOPInstanceUIDs are borne by files with different pictures")
    if counts["suspected_text"]:
        where = f", cropped in data/suspected_text/{dataset['name']}/" if "name" in dataset else ""
        lines.append(f"text seems to be burned into {counts['suspected_text']} radiographs{where}: look at them")
    for column, told in LISTED.items():
        if number := counts[column]:
            lines.append(f"{number} radiographs {told}: see {column} in manifest.csv")
    return "\n".join(lines + _leakage(counts))


def _leakage(counts: dict) -> list[str]:
    """What can be said of patients on both sides of the split, and of those that nothing is known of."""
    if "test" not in counts["parts"]:
        return []
    unknown, shared, patients = counts["of_unknown_patients"], counts["share_a_patient"], counts["test_patients"]
    cannot = f"so that leakage cannot be excluded: {REMEDY}"
    lines = [f"{_sharing(shared)}, perhaps a placeholder, and count as one patient, {cannot}"] if shared else []
    if unknown:
        lines.append(f"the patients of {unknown} images are not known, {cannot}")
    if patients:
        known = " known" * bool(unknown or shared)
        leaked = counts["test_patients_in_training"]
        lines.append(f"{leaked} of the {patients}{known} patients of the test part are also in training")
    return lines


def _sharing(shared: list[int]) -> str:
    told = " and ".join(map(str, shared[:3])) + " and ..." * (len(shared) > 3)
    return f"{told} radiographs bear one PatientID" + " each" * (len(shared) > 1)


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
    known = ("stage", "view", "spacing_mm", "acquired")
    text = {"suspected_text": sum(bool(entry.get("suspected_text")) for entry in entries)}
    return columns, {
        "settings": settings.model_dump(),
        "counts": _counts(columns, len(files), reasons) | text,
        "overlap": overlap(columns),
        "overlap_of_pictures": overlap(columns, "sha256"),
        "patients_from": dict(sorted(Counter(columns["patient_from"]).items())),
        "known": {column: len(columns[column]) - columns[column].count("") for column in known},
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
            told = entry.get(column, "")
            values.append(sys.intern(told) if isinstance(told, str) else told)
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
    try:
        return split(found, leak_groups(columns["patient_id"], columns["sha256"]), settings)
    except ValueError as refusal:
        shared = list(_sharers(columns).values())
        raise ValueError(f"{_sharing(shared)}: {refusal}" if shared else str(refusal)) from None


def _counts(columns: dict[str, list], found: int, reasons: dict[str, int]) -> dict:
    parts: dict[str, dict[str, int]] = {part: {} for part in sorted(set(columns["split"]))}
    for (part, label), number in sorted(Counter(zip(columns["split"], columns["label"], strict=True)).items()):
        parts[part][label] = number
    accepted, patients, shared = len(columns["label"]), columns["patient_id"], _sharers(columns)
    where_from, no_one = zip(patients, columns["patient_from"], strict=True), {UNKNOWN, PLACEHOLDER}
    known = {patient for patient, told in where_from if told not in no_one} - set(shared)
    in_test = {patient for patient, part in zip(patients, columns["split"], strict=True) if part == "test"}
    return {
        "found": found,
        "accepted": accepted,
        "rejected": found - accepted,
        "reasons": reasons,
        "parts": parts,
        "patients": len(set(patients)),
        "test_patients": len(in_test & known),
        "test_patients_in_training": overlap(columns, among=known),
        "of_unknown_patients": sum(who not in known and who not in shared for who in patients),
        "share_a_patient": list(shared.values()),
        "duplicates": accepted - len(set(columns["sha256"])),
        "duplicates_with_two_labels": _ambiguous(columns["sha256"], columns["label"]),
        "uids_of_two_pictures": _ambiguous(columns["uid"], columns["sha256"]),
        "grey_range": columns["grey_range"].count("unknown"),
        "less_grey_than_declared": columns["grey_range"].count("used"),
        **{column: len(columns[column]) - columns[column].count("") for column in ("faulty", "contradiction")},
        "body_part_guessed": columns["body_part"].count("guessed"),
    }


def _sharers(columns: dict[str, list]) -> dict[str, int]:
    """Patients who may be none, since very many images bear their name or it is a placeholder, and how many do."""
    named = zip(columns["patient_id"], columns["patient_from"], strict=True)
    placeholders = {patient for patient, told in named if told == PLACEHOLDER}
    many = max(MANY, SHARE * len(columns["patient_id"]))
    images = Counter(columns["patient_id"]).most_common()
    return {who: n for who, n in images if n >= many or (who in placeholders and n > 1)}


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
