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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pneumo_nb import images, paths, phantom_files, pseudonyms
from pneumo_nb import labels as source_labels
from pneumo_nb.convert import Job, Task, convert_all, equalise, refine, render
from pneumo_nb.settings import PhantomSettings, PrepareSettings
from pneumo_nb.splits import leak_groups, overlap, split

__all__ = ["equalise", "overlap", "phantom", "prepare", "read_dataset", "refine", "split", "summary"]

FORMAT = 1  # of the prepared folder; another number makes every dataset be prepared anew
MANIFEST = ["image_id", "file", "patient_id", "label", "stage", "split"]
MANIFEST += ["width", "height", "original_width", "original_height", "bits", "photometric", "view", "spacing_mm"]
MANIFEST += ["source_sha256", "sha256"]
REJECTS = ["file", "position", "reason"]
DEFAULTS, SMOKE = PrepareSettings(), PhantomSettings()
FEW = 16  # files that are converted before more processes have started


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
    both cases nothing new bears the dataset's name. The same call again finds the work done and returns at once.
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
        if _done(folder, fingerprint):
            return folder
        with paths.whole(folder) as part:
            for inner in ("images", "examples") + (("masks",) if masks else ()):
                (part / inner).mkdir(parents=True)
            job = Job(source, part, settings, key)
            accepted, rejected = _convert(job, files, rows, progress, workers or _workers(len(files)))
            _finish(job, name, accepted, rejected, rows is not None, fingerprint)
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
    counts = dataset["counts"]
    lines = [f"{counts['found']} files found: {counts['accepted']} accepted, {counts['rejected']} rejected"]
    lines += [f"  {number} rejected: {reason}" for reason, number in counts["reasons"].items()]
    for part, by_label in counts["parts"].items():
        shown = ", ".join(f"{number} {_class(label)}" for label, number in by_label.items())
        lines.append(f"{part}: {sum(by_label.values())} images, {shown}")
    if counts["duplicates"]:
        lines.append(f"{counts['duplicates']} images show the same picture as another one")
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
        split([row.label for row in rows.values()], [row.patient or file for file, row in rows.items()], settings)
    if rows is None and settings.split == "given":
        raise ValueError("split=given needs a labels CSV with a column split")


def _workers(files: int) -> int:
    if files < FEW:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this dataset, then clear away what a killed one left behind."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        for old in folder.parent.glob(f".{folder.name}.*.old"):
            if not folder.exists():  # killed between the two renames of paths.whole
                old.rename(folder)
        for left in [*folder.parent.glob(f".{folder.name}.*.old"), *folder.parent.glob(f".{folder.name}.*.part")]:
            shutil.rmtree(left)
        yield


def _fingerprint(key: bytes, settings: PrepareSettings, source: Path, files: list[str], rows: dict) -> str:
    """One keyed hash of all that goes in, files by name, size and time: equal inputs are not prepared twice."""
    said = repr(sorted(rows.items(), key=lambda pair: pair[0])).encode("utf-8", "surrogateescape")
    state = hmac.new(key, f"{FORMAT} {settings.digest()} ".encode() + said, "sha256")
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


def _convert(
    job: Job, files: list[str], rows: dict | None, progress: bool, workers: int
) -> tuple[list[dict], list[dict]]:
    """Convert all files; returns the accepted ones' rows and the rejected ones', both in the order of `files`."""
    from tqdm.auto import tqdm

    tasks, accepted, rejected = [], [], []
    for position, file in enumerate(files, start=1):
        image_id = pseudonyms.image_id(job.key, os.fsencode(file))
        if rows is None or file in rows:
            tasks.append((position, Task(file, image_id, rows[file] if rows else source_labels.Row())))
        else:
            rejected.append({"file": image_id, "position": position, "reason": "it has no row in the labels CSV"})
    if len({task.image_id for _, task in tasks}) < len(tasks):  # about 1 chance in 600,000 at 30,000 files
        raise ValueError("two files have one pseudonym: rename one of them")
    outcomes = convert_all(job, (task for _, task in tasks), workers)
    bar = tqdm(outcomes, total=len(tasks), desc="prepare", unit=" files", disable=not progress)
    for (position, task), outcome in zip(tasks, bar, strict=True):
        if "reason" in outcome:
            rejected.append({"file": task.image_id, "position": position, "reason": outcome["reason"]})
        else:
            accepted.append(outcome | {"source": task})
    return accepted, sorted(rejected, key=lambda row: row["position"])


def _finish(job: Job, name: str, accepted: list[dict], rejected: list[dict], labelled: bool, fingerprint: str) -> None:
    """Split, and write manifest.csv, rejects.csv, examples/ and dataset.json."""
    reasons = dict(sorted(Counter(row["reason"] for row in rejected).items(), key=lambda pair: (-pair[1], pair[0])))
    if not accepted:
        shown = "; ".join(f"{number}: {reason}" for reason, number in list(reasons.items())[:3])
        raise ValueError(f"none of the {len(rejected)} files became an image ({shown})")
    groups = leak_groups([row["patient_id"] for row in accepted], [row["picture"] for row in accepted])
    for row, part in zip(accepted, _parts(accepted, groups, labelled, job.settings), strict=True):
        row["split"] = part
    manifest = _write_csv(job.folder / "manifest.csv", MANIFEST, accepted)
    _write_csv(job.folder / "rejects.csv", REJECTS, rejected)
    examples = _write_examples(job, accepted)
    columns = {column: [row[column] for row in accepted] for column in ("patient_id", "split")}
    content = {
        "format": FORMAT,
        "name": name,
        "settings": job.settings.model_dump(),
        "counts": _counts(accepted, rejected, reasons),
        "overlap": overlap(columns),
        "patients_from": dict(sorted(Counter(row["patient_from"] for row in accepted).items())),
        "known": {column: sum(row[column] != "" for row in accepted) for column in ("stage", "view", "spacing_mm")},
        "examples": examples,
        "hash": hashlib.sha256(manifest + job.settings.digest().encode()).hexdigest(),
        "fingerprint": fingerprint,
    }
    (job.folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")


def _parts(accepted: list[dict], groups: list[str], labelled: bool, settings: PrepareSettings) -> list[str]:
    if not labelled:
        return ["none"] * len(accepted)
    if settings.split == "given":
        return [row["source"].row.split for row in accepted]
    found = [row["label"] for row in accepted]
    if len(set(found)) < 2:
        raise ValueError(f"all accepted radiographs have label {found[0]}: both classes are needed")
    return split(found, groups, settings)


def _counts(accepted: list[dict], rejected: list[dict], reasons: dict[str, int]) -> dict:
    parts: dict[str, dict[str, int]] = {}
    for row in sorted(accepted, key=lambda row: (row["split"], row["label"])):
        by_label = parts.setdefault(row["split"], {})
        by_label[row["label"]] = by_label.get(row["label"], 0) + 1
    labels_of: dict[str, set[str]] = {}
    for row in accepted:
        labels_of.setdefault(row["picture"], set()).add(row["label"])
    return {
        "found": len(accepted) + len(rejected),
        "accepted": len(accepted),
        "rejected": len(rejected),
        "reasons": reasons,
        "parts": parts,
        "patients": len({row["patient_id"] for row in accepted}),
        "test_patients": len({row["patient_id"] for row in accepted if row["split"] == "test"}),
        "duplicates": len(accepted) - len(labels_of),
        "duplicates_with_two_labels": sum(len(found) > 1 for found in labels_of.values()),
        "body_part_guessed": sum(row["body_part"] == "guessed" for row in accepted),
    }


def _write_csv(path: Path, columns: list[str], rows: list[dict]) -> bytes:
    with path.open("w", newline="", encoding="ascii") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path.read_bytes()


def _write_examples(job: Job, accepted: list[dict]) -> list[str]:
    """The first radiograph of each class as it was read, so that Figure 1 can be rebuilt step by step."""
    first: dict[str, dict] = {}
    for row in accepted:
        first.setdefault(row["label"], row)
    for row in first.values():
        picture, _, _ = render(job.source / row["source"].file, job.settings)
        (job.folder / f"examples/{row['image_id']}.png").write_bytes(images.encode(picture, "png"))
    return [first[label]["image_id"] for label in sorted(first, reverse=True)]
