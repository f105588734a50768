"""What preparing leaves to be read: manifest.csv, rejects.csv, dataset.json, and their counts in a few lines."""

import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import takewhile
from pathlib import Path

import pandas as pd

from pneumo_nb.prepare.sources import DISEASE
from pneumo_nb.prepare.splits import REMEDY, leak_groups, overlap, split
from pneumo_nb.settings import PrepareSettings, digest, refuse

FORMAT = 4  # of the prepared folder; another number makes every dataset be prepared anew
MANIFEST = ["image_id", "file", "patient_id", "label", *DISEASE, "split"]
MANIFEST += ["width", "height", "original_width", "original_height", "bits", "photometric", "view", "spacing_mm"]
MANIFEST += ["acquired", "suspected_text", "grey_range", "faulty", "contradiction", "source_sha256", "sha256"]
ROUNDED = ["suspected_text", "source_sha256", "sha256"]  # columns of a manifest in which a rounded grey level shows
COUNTED = ["position", "image_id", "patient_id", "label", "split", "stage", "view", "spacing_mm", "sha256", "uid"]
COUNTED += ["patient_from", "body_part", "acquired", "grey_range", "faulty", "contradiction"]  # in memory, of all
LISTED = {  # what a person should look at: counts, and what `summary` says of them
    "duplicates": "{} images show the same picture as another one{pictures}",
    "uids_of_two_pictures": "{} SOPInstanceUIDs are borne by files with different pictures",
    "suspected_text": "text seems to be burned into {} radiographs{crops}: look at them",
    "grey_range": "{} radiographs are shown nearly flat, since the greys that they use are not known: {column}",
    "contradiction": "{} radiographs have headers that contradict themselves"
    " (--set polarity=photometric overrules the shape): {column}",
    "faulty": "{} radiographs have faulty elements, which were left out: {column}",
}
REJECTS = ["file", "position", "reason"]
CLASSES = {"0": "negative", "1": "positive", "": "unlabelled"}
UNKNOWN, PLACEHOLDER = "nothing: each image its own patient", "a placeholder, taken for one patient"
MANY, SHARE = 8, 0.1  # images of one patient, also as a share of all: from both on it may be no patient


class Journal(AbstractContextManager):
    """What converting tells of each file, on disk: found again after a kill, and never all in memory.

    Entries are read back in the order of their positions; of two for one the last counts. Each is a JSON line; one that
    a kill cut short counts as not written.
    """

    def __init__(self, path: Path):
        self._file, self._places, end = path.open("a+b"), {}, 0
        self._file.seek(0)
        for line in takewhile(lambda line: line.endswith(b"\n"), self._file):
            self._places[json.loads(line)["position"]] = end
            end += len(line)
        self._file.truncate(end)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: dict) -> None:
        """Append `entry`, which has a "position"; once this returns, a kill of this process cannot undo it."""
        self._places[entry["position"]] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def __iter__(self) -> Iterator[dict]:
        for _, place in sorted(self._places.items()):
            self._file.seek(place)
            yield json.loads(self._file.readline())


def summary(dataset: dict) -> str:
    """The counts of a dataset.json in a few lines: found, accepted, rejected by reason, the parts, and what leaks."""
    counts = dataset["counts"]
    lines = [f"{counts['found']} files found: {counts['accepted']} accepted, {counts['rejected']} rejected"]
    lines += [f"  {number} rejected: {reason}" for reason, number in counts["reasons"].items()]
    for part, by_label in counts["parts"].items():
        shown = ", ".join(f"{number} {CLASSES[label]}" for label, number in by_label.items())
        lines.append(f"{part}: {sum(by_label.values())} images, {shown}")
    given = dataset["settings"]["split"] == "given"
    more = {"pictures": f"; {dataset['overlap_of_pictures']} pictures are in training and in testing" * given}
    more["crops"] = f", cropped in data/suspected_text/{dataset['name']}/" if "name" in dataset else ""
    for what, told in LISTED.items():
        if counts[what]:
            lines.append(told.format(counts[what], **more, column=f"see {what} in manifest.csv"))
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


def outcome(entries: Iterable[dict], settings: PrepareSettings) -> tuple[pd.DataFrame, dict]:
    """Split the accepted images; returns what is counted of them, a row each, and what dataset.json tells of them.

    `entries` hold, for each file, its part of the manifest or the reason why it became no image; they are gone through
    several times and never held at once. ValueError: none was accepted, or a class is too small to split.
    """
    rejected = Counter(sorted(entry["reason"] for entry in entries if "reason" in entry))
    told = ([entry[column] for column in COUNTED] for entry in entries if "reason" not in entry)
    kept = ([sys.intern(value) if isinstance(value, str) else value for value in row] for row in told)
    images = pd.DataFrame(kept, columns=COUNTED, dtype=object)
    shown = "; ".join(f"{number}: {reason}" for reason, number in rejected.most_common(3))
    refuse(images.empty, f"none of the {rejected.total()} files became an image ({shown})")
    images["split"] = _parts(images, settings)
    text = {"suspected_text": sum(bool(entry.get("suspected_text")) for entry in entries)}
    return images, {
        "settings": settings.model_dump(),
        "counts": _counts(images, rejected) | text,
        "overlap": overlap(images),
        "overlap_of_pictures": overlap(images, "sha256"),
        "patients_from": dict(sorted(Counter(images["patient_from"]).items())),
        "known": (images[["stage", "view", "spacing_mm", "acquired"]] != "").sum().to_dict(),
    }


def write(folder: Path, entries: Iterable[dict], parts: Iterable[str], told: dict) -> None:
    """Write the three files: `parts` are those of the accepted `entries`, `told` is dataset.json but for its hash.

    The hash is of the settings and of the manifest with its checksums. In their place it has the record of a `phantom`,
    whose grey levels another CPU may round otherwise: it is the same dataset there, and what was trained on it counts.
    """
    part = iter(parts)
    accepted = (entry | {"split": next(part)} for entry in entries if "reason" not in entry)
    manifest_sha256 = _write_csv(folder / "manifest.csv", MANIFEST, accepted)
    _write_csv(folder / "rejects.csv", REJECTS, (entry for entry in entries if "reason" in entry))
    if "phantom" in told:
        drawn = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False).drop(columns=ROUNDED)
        manifest_sha256 = hashlib.sha256((drawn.to_csv(index=False) + told["phantom"]).encode()).hexdigest()
    told = told | {"hash": hashlib.sha256(f"{manifest_sha256} {digest(told['settings'])}".encode()).hexdigest()}
    (folder / "dataset.json").write_text(json.dumps(told, indent=1) + "\n")


def _parts(images: pd.DataFrame, settings: PrepareSettings) -> list[str]:
    found = images["label"].tolist()
    if not any(found):
        return ["none"] * len(found)
    if settings.split == "given":
        return images["split"].tolist()
    refuse(len(set(found)) < 2, f"all accepted radiographs have label {found[0]}: both classes are needed")
    if settings.split == "paper":
        return split(found, images["sha256"].tolist(), settings)
    try:
        return split(found, leak_groups(images["patient_id"], images["sha256"]), settings)
    except ValueError as refusal:
        shared = list(_sharers(images).values())
        raise ValueError(f"{_sharing(shared)}: {refusal}" if shared else str(refusal)) from None


def _counts(images: pd.DataFrame, rejected: Counter) -> dict:
    patients, shared, greys = images["patient_id"], _sharers(images), Counter(images["grey_range"])
    known = set(patients[~images["patient_from"].isin([UNKNOWN, PLACEHOLDER])]) - set(shared)
    return {
        "found": len(images) + rejected.total(),
        "accepted": len(images),
        "rejected": rejected.total(),
        "reasons": dict(rejected.most_common()),
        "parts": {part: dict(sorted(Counter(labels).items())) for part, labels in images.groupby("split")["label"]},
        "patients": patients.nunique(),
        "test_patients": len(set(patients[images["split"] == "test"]) & known),
        "test_patients_in_training": overlap(images[patients.isin(known)]),
        "of_unknown_patients": int((~patients.isin({*known, *shared})).sum()),
        "share_a_patient": list(shared.values()),
        "duplicates": int(images["sha256"].duplicated().sum()),
        "duplicates_with_two_labels": _ambiguous(images, "sha256", "label"),
        "uids_of_two_pictures": _ambiguous(images[images["uid"] != ""], "uid", "sha256"),
        "grey_range": greys["unknown"],
        "less_grey_than_declared": greys["used"],
        **(images[["faulty", "contradiction"]] != "").sum().to_dict(),
        "body_part_guessed": int((images["body_part"] == "guessed").sum()),
    }


def _sharers(images: pd.DataFrame) -> dict[str, int]:
    """Patients who may be none, since very many images bear their name or it is a placeholder, and how many do."""
    placeholders = set(images.loc[images["patient_from"] == PLACEHOLDER, "patient_id"])
    many, bearers = max(MANY, SHARE * len(images)), Counter(images["patient_id"]).most_common()
    return {who: n for who, n in bearers if n >= many or (who in placeholders and n > 1)}


def _ambiguous(images: pd.DataFrame, name: str, value: str) -> int:
    """How many names come with more than one value."""
    return int((images.groupby(name)[value].nunique() > 1).sum())


def _write_csv(path: Path, columns: list[str], rows: Iterable[dict]) -> str:
    """Write a table; returns the SHA-256 of the file."""
    with path.open("w", newline="", encoding="ascii") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return hashlib.sha256(path.read_bytes()).hexdigest()
