"""A folder of radiographs -> a prepared dataset: rendered, de-identified, equalised, downsized and split (Section 2.1).

What is copied is on a list: pixels, the columns of MANIFEST, and counts. Names become keyed pseudonyms.
"""

import csv
import hashlib
import hmac
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any

from pneumo_nb import labels as source_labels
from pneumo_nb import paths, phantom_files, pseudonyms
from pneumo_nb.convert import Job, Task, convert_all, equalise, keep_examples, refine
from pneumo_nb.journal import Journal
from pneumo_nb.settings import PhantomSettings, PrepareSettings
from pneumo_nb.splits import leak_groups, overlap, split

__all__ = ["equalise", "overlap", "phantom", "prepare", "read_dataset", "refine", "split", "summary"]

FORMAT = 2  # of the prepared folder; another number makes every dataset be prepared anew
MANIFEST = ["image_id", "file", "patient_id", "label", "stage", "split"]
MANIFEST += ["width", "height", "original_width", "original_height", "bits", "photometric", "view", "spacing_mm"]
MANIFEST += ["source_sha256", "sha256"]
COUNTED = ["position", "image_id", "patient_id", "label", "stage", "view", "spacing_mm", "sha256", "uid"]
COUNTED += ["patient_from", "body_part"]
REJECTS = ["file", "position", "reason"]
DEFAULTS, SMOKE = PrepareSettings(), PhantomSettings()
FEW = 16  # files that one process converts before a second has started


def prepare(
    source: str | Path,
    labels: str | Path | None,
    name: str,
    settings: PrepareSettings = DEFAULTS,
    progress: bool = True,
    workers: int | None = None,
) -> Path:
    """Prepare the radiographs under `source` as the dataset `name`; returns its folder, data/prepared/<name>.

    `labels` is a CSV (see labels.read); None means labels.csv in `source` or, without one, unlabelled images in no
    split. `workers` are processes, by default one for each core (a script calling this needs `if __name__ == ...`).
    A bad file is listed in rejects.csv and never stops the run. ValueError, in one line and before work starts: a wrong
    name, setting, folder or CSV; after it: too few radiographs were accepted. OSError: the folder cannot be written. In
    both cases nothing new bears the dataset's name. The same call again finds the work done and returns at once, or
    goes on where a stopped one was, to the same result.
    """
    _check(name, workers)
    source, folder = Path(source).resolve(), paths.prepared(name)
    table = _labels_path(source, labels)
    rows = source_labels.read(table, source, settings.split == "given") if table else None
    masks = [mask for row in (rows or {}).values() for mask in row.masks().values()]
    files = source_labels.find(source, [table, *masks] if table else [])
    if not files:
        raise ValueError("the source folder holds no files: it must hold DICOM, JPG or PNG files")
    if folder.parent.resolve().is_relative_to(source):
        raise ValueError("the source folder contains data/prepared: choose the folder of the radiographs only")
    _check_split(rows, settings)
    with _alone(folder):
        key = pseudonyms.key()
        fingerprint = _fingerprint(key, settings, source, files, rows or {})
        part = folder.with_name(f".{folder.name}.{fingerprint[:16]}.part")
        done = _done(folder, fingerprint)
        _clear(folder, None if done else part)
        if done:
            return folder
        for inner in ("images", "examples") + (("masks",) if masks else ()):
            (part / inner).mkdir(parents=True, exist_ok=True)
        job = Job(source, part, settings, key)
        try:
            with Journal(part.with_suffix(".journal"), len(files)) as journal:
                _convert(job, files, rows, journal, progress, workers or _workers(len(files)))
                _finish(job, name, files, rows, journal, fingerprint)
        except ValueError:  # these inputs cannot become a dataset: nothing to go on with
            _clear(folder, None)
            raise
        paths.put(part, folder)
        _clear(folder, None)
    return folder


def phantom(
    name: str = "phantom",
    size: PhantomSettings = SMOKE,
    settings: PrepareSettings = DEFAULTS,
    progress: bool = True,
) -> Path:
    """The built-in phantom as the dataset `name`: written as DICOM under data/raw/, then prepared like any source."""
    from tqdm.auto import tqdm

    _check(name, None)
    source = paths.raw(f"phantom-{size.patients}-{size.positives}-{size.width}x{size.height}-seed{size.phantom_seed}")
    with (
        _alone(source),
        tqdm(total=size.patients, desc="phantom", unit=" files", disable=not progress, leave=False) as bar,
    ):
        _clear(source, None)
        arguments = (size.patients, size.positives, size.width, size.height, size.phantom_seed)
        phantom_files.write(source, *arguments, progress=lambda done, _: bar.update(done - bar.n))
    return prepare(source, None, name, settings, progress)


def read_dataset(name: str) -> tuple[Any, dict]:
    """Manifest (a DataFrame, labels as text) and dataset.json of a prepared dataset; ValueError names what there is."""
    import pandas as pd

    folder = paths.finished(name)
    as_text = {"label": str, "stage": str, "view": str, "photometric": str}
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False, dtype=as_text)
    manifest["spacing_mm"] = pd.to_numeric(manifest["spacing_mm"], errors="coerce")
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
    if "test" in counts["parts"]:
        leaked, patients = dataset["overlap"], counts["test_patients"]
        lines.append(f"{leaked} of the {patients} patients of the test part are also in training")
    return "\n".join(lines)


def _class(label: str) -> str:
    return {"0": "negative", "1": "positive"}.get(label, "unlabelled")


def _check(name: str, workers: int | None) -> None:
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
        raise ValueError(f"{name!r} cannot name a dataset: use up to 64 letters, digits, '-' and '_'")
    if workers is not None and workers < 1:
        raise ValueError(f"workers = {workers}: there must be at least 1")


def _labels_path(source: Path, labels: str | Path | None) -> Path | None:
    path = Path(labels) if labels else source / "labels.csv"
    return path.parent.resolve() / path.name if labels or path.is_file() else None


def _check_split(rows: dict | None, settings: PrepareSettings) -> None:
    """Refuse classes that are too small before the work; files rejected later may still make them so."""
    if rows and settings.split != "given":
        groups = [(settings.split == "patient" and row.patient) or file for file, row in rows.items()]
        split([row.label for row in rows.values()], groups, settings)
    if rows is None and settings.split == "given":
        raise ValueError("split=given needs a labels CSV with a column split")


def _workers(files: int) -> int:
    if files < FEW:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this dataset, and give it back its name if a kill took it."""
    with paths.alone(folder.parent / f".{folder.name}.lock", f"dataset {folder.name}"), paths.writing(folder):
        for old in folder.parent.glob(f".{folder.name}.*.old"):
            if not folder.exists():  # killed between the two renames of paths.put
                old.rename(folder)
        yield


def _clear(folder: Path, keep: Path | None) -> None:
    """Remove what stopped runs left beside `folder`, but for the part folder `keep` and its journal."""
    for ending in ("old", "part", "journal"):
        for left in folder.parent.glob(f".{folder.name}.*.{ending}"):
            if keep is None or left.stem != keep.stem:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _fingerprint(key: bytes, settings: PrepareSettings, source: Path, files: list[str], rows: dict) -> str:
    """One keyed hash of all that goes in, files by name, size and time: equal inputs are not prepared twice."""
    state = hmac.new(key, f"{FORMAT} {settings.digest()} ".encode(), "sha256")
    for pair in sorted(rows.items(), key=lambda pair: pair[0]):
        state.update(repr(pair).encode("utf-8", "surrogateescape"))
    masks = [mask for row in rows.values() for mask in row.masks().values()]
    for path in [source / file for file in files] + sorted(masks):
        try:
            found = path.lstat()
        except FileNotFoundError:  # since it was listed; converting it will give the reason
            continue
        state.update(os.fsencode(path.relative_to(source) if path.is_relative_to(source) else path))
        state.update(f"\0{found.st_size} {found.st_mtime_ns} {found.st_mode}\0".encode())
    return state.hexdigest()


def _done(folder: Path, fingerprint: str) -> bool:
    try:
        return json.loads((folder / "dataset.json").read_text())["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError):
        return False


def _convert(job: Job, files: list[str], rows: dict | None, journal: Journal, progress: bool, workers: int) -> None:
    """Give each of the files an entry in the journal: its part of the manifest, or the reason why not."""
    from tqdm.auto import tqdm

    ids = [pseudonyms.image_id(job.key, os.fsencode(file)) for file in files]
    if len(set(ids)) < len(ids):  # about 1 chance in 600,000 at 30,000 files
        raise ValueError("two files have one pseudonym: rename one of them")
    for entry in journal:
        if "reason" not in entry and not _is_whole(job.folder / entry["file"], entry["sha256"]):
            journal.forget(entry["position"])
    bar = tqdm(total=len(files), initial=len(journal), desc="prepare", unit=" files", disable=not progress)

    def tasks() -> Iterator[Task]:
        for position, (file, image_id) in enumerate(zip(files, ids, strict=True), start=1):
            if position in journal:
                continue
            if rows is None or file in rows:
                yield Task(file, image_id, rows[file] if rows else source_labels.Row(), position)
            else:
                journal.add({"position": position, "file": image_id, "reason": "it has no row in the labels CSV"})
                bar.update()

    with bar:
        for task, outcome in convert_all(job, tasks(), workers):
            if "reason" in outcome:
                outcome["file"] = task.image_id
            journal.add({"position": task.position} | outcome)
            bar.update()


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a power cut spared this file."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _finish(job: Job, name: str, files: list[str], rows: dict | None, journal: Journal, fingerprint: str) -> None:
    """Split, and write manifest.csv, rejects.csv, examples/ and dataset.json."""
    reasons = Counter(entry["reason"] for entry in journal if "reason" in entry)
    reasons = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    columns = _columns(entry for entry in journal if "reason" not in entry)
    if not columns["label"]:
        shown = "; ".join(f"{number}: {reason}" for reason, number in list(reasons.items())[:3])
        raise ValueError(f"none of the {len(files)} files became an image ({shown})")
    columns["split"] = _parts(columns, [files[p - 1] for p in columns["position"]], rows, job.settings)
    parts = iter(columns["split"])
    accepted = (entry | {"split": next(parts)} for entry in journal if "reason" not in entry)
    manifest_sha256 = _write_csv(job.folder / "manifest.csv", MANIFEST, accepted)
    _write_csv(job.folder / "rejects.csv", REJECTS, (entry for entry in journal if "reason" in entry))
    content = {
        "format": FORMAT,
        "name": name,
        "settings": job.settings.model_dump(),
        "counts": _counts(columns, len(files), reasons),
        "overlap": overlap(columns),
        "overlap_of_pictures": overlap(columns, "sha256"),
        "patients_from": dict(sorted(Counter(columns["patient_from"]).items())),
        "known": {column: sum(value != "" for value in columns[column]) for column in ("stage", "view", "spacing_mm")},
        "examples": _keep_examples(job, files, columns),
        "hash": hashlib.sha256(f"{manifest_sha256} {job.settings.digest()}".encode()).hexdigest(),
        "fingerprint": fingerprint,
    }
    (job.folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")


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


def _keep_examples(job: Job, files: list[str], columns: dict[str, list]) -> list[str]:
    """Keep the first radiograph of each class as it was read; returns their image_ids, a positive one first."""
    tasks = []
    for label in sorted(set(columns["label"]), reverse=True):
        first = columns["label"].index(label)
        file = files[columns["position"][first] - 1]
        tasks.append(Task(file, columns["image_id"][first], source_labels.Row()))
    keep_examples(job, tasks)
    return [task.image_id for task in tasks]
