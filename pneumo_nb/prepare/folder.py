"""A folder of radiographs -> a prepared dataset: rendered, de-identified, equalised, downsized and split (Section 2.1).

What is copied is on a list: pixels, the columns of manifest.MANIFEST, and counts. Names become keyed pseudonyms.
"""

import hashlib
import hmac
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from pneumo_nb import paths, processes
from pneumo_nb.phantom import files as phantom_files
from pneumo_nb.prepare import convert, manifest, pseudonyms, sources
from pneumo_nb.prepare.convert import Job, Task
from pneumo_nb.prepare.manifest import Journal
from pneumo_nb.prepare.splits import split
from pneumo_nb.settings import PhantomSettings, PrepareSettings, is_phantom, refuse

DEFAULTS, SMOKE = PrepareSettings(), PhantomSettings()
FEW = 16  # files that one process converts before a second has started
_bar = partial(tqdm, unit=" files", mininterval=1)  # seconds: see loop.BETWEEN_UPDATES


def prepare(
    source: str | Path,
    labels: str | Path | None,
    name: str,
    settings: PrepareSettings = DEFAULTS,
    progress: bool = True,
    workers: int | None = None,
    layout: sources.Layout | None = None,
) -> Path:
    """Prepare the radiographs under `source` as the dataset `name`; returns its folder, data/prepared/<name>.

    `labels` is a CSV (see sources.read); None means labels.csv in `source` or, without one, unlabelled images in no
    split; a `layout` says where the labels stand if elsewhere (see sources.layout). `workers` are processes, by default
    one for each core (a script calling this needs `if __name__ == ...`).
    A bad file is listed in rejects.csv and never stops the run. ValueError, in one line and before work starts: a wrong
    name, setting, folder or CSV; after it: too few radiographs were accepted. OSError: the folder cannot be written.
    Then nothing new bears the dataset's name. The same call again finds the work done, goes on where it was stopped,
    or does anew what has been damaged since.
    """
    _check(name, workers)
    source, folder = Path(source).resolve(), paths.prepared(name)
    record = _record(source)
    refuse(is_phantom(name) and not record, f"{name!r} would name a phantom, which notebook 01 makes: choose another")
    files, rows = _look_through(source, labels, settings, layout)
    drawn = {"phantom": record} if is_phantom(name) else {}
    with _alone(folder):
        key = pseudonyms.PUBLIC if drawn else pseudonyms.key()
        fingerprint = _fingerprint(key, settings, source, files, rows or {})
        part = folder.with_name(f".{folder.name}.{fingerprint[:16]}.part")
        if not _done(folder, fingerprint):
            _clear(folder, part)
            job = Job(source, part, settings, key, paths.suspected_text(part.name))
            part.mkdir(exist_ok=True)
            try:
                with Journal(part.with_suffix(".journal")) as journal:
                    _convert(job, files, rows, journal, progress, workers)
                    _finish(job, files, journal, {"format": manifest.FORMAT, "name": name} | drawn, fingerprint)
            except ValueError:  # these inputs cannot become a dataset: nothing to go on with
                _clear(folder)
                raise
            paths.put(part, folder)
        _clear(folder)
    return folder


def check(
    source: str | Path,
    labels: str | Path | None,
    settings: PrepareSettings = DEFAULTS,
    progress: bool = True,
    workers: int | None = None,
    layout: sources.Layout | None = None,
) -> dict:
    """What `prepare` would come to, in the form of a dataset.json, with nothing written but a file that goes again.

    Errors are those of `prepare`. Without a pseudonym.key, ties between patients of one size may be split otherwise.
    """
    _check("check", workers)
    source = Path(source).resolve()
    files, rows = _look_through(source, labels, settings, layout)
    with tempfile.TemporaryDirectory() as aside, Journal(Path(aside) / "journal") as journal:
        _convert(Job(source, None, settings, pseudonyms.key(make=False)), files, rows, journal, progress, workers)
        return manifest.outcome(journal, settings)[1]


def phantom(
    name: str = "phantom", size: PhantomSettings = SMOKE, settings: PrepareSettings = DEFAULTS, progress: bool = True
) -> Path:
    """The built-in phantom as the dataset `name`: written as DICOM under data/raw/, then prepared like any source."""
    _check(name, None)
    numbers = (size.patients, size.positives, size.width, size.height, size.phantom_seed)
    source = paths.raw("phantom-{}-{}-{}x{}-seed{}-{}".format(*numbers, size.mix))
    with _alone(source), _bar(disable=not progress, desc="phantom", total=size.patients, leave=False, delay=1) as bar:
        _clear(source)
        phantom_files.write(source, *numbers, progress=lambda done, _: bar.update(done - bar.n), mix=size.mix)
    return prepare(source, None, name, settings, progress)


def _look_through(
    source: Path, labels: str | Path | None, settings: PrepareSettings, layout: sources.Layout | None
) -> tuple[list[str], dict[str, sources.Row] | None]:
    """The files of the source and what its labels say of them, or a ValueError before any work."""
    files, rows = sources.read(source, labels, settings.split == "given", layout)
    refuse(not files, "the source folder holds no files: it must hold DICOM, JPG or PNG files")
    if paths.prepared().resolve().is_relative_to(source):
        raise ValueError("the source folder contains data/prepared: choose the folder of the radiographs only")
    if rows and settings.split != "given":  # files that are rejected later may still make a class too small
        groups = [(settings.split == "patient" and row.patient) or file for file, row in rows.items()]
        split([row.label for row in rows.values()], groups, settings)
    return files, rows


def _check(name: str, workers: int | None) -> None:
    refuse(paths.prepared(name) == paths.prepared(), "'' cannot name a dataset: it needs letters or digits")
    processes.refuse_count("workers", 1 if workers is None else workers)


def _record(source: Path) -> str:
    """SHA-256 of the record by which a phantom tells what it was made of; without one, '': patients need a secret."""
    record = source / sources.RECORD
    content = record.read_bytes() if record.is_file() else b""
    return hashlib.sha256(content).hexdigest() if b'"pneumo_nb.phantom"' in content else ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this dataset, and give it back its name if a kill took it."""
    with paths.alone(folder.parent / f".{folder.name}.lock", f"dataset {folder.name}"), paths.writing(folder):
        for old in folder.parent.glob(f".{folder.name}.*.old"):
            if not folder.exists():  # killed between the two renames of paths.put
                old.rename(folder)
        yield


def _clear(folder: Path, keep: Path | None = None) -> None:
    """Remove what stopped runs left beside `folder`, but for the part folder `keep`, its journal and its crops."""
    places = folder.parent, paths.suspected_text("")
    for left in (left for place in places for left in place.glob(f".{folder.name}.*.*")):
        if keep is None or left.stem != keep.stem:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _fingerprint(key: bytes, settings: PrepareSettings, source: Path, files: list[str], rows: dict) -> str:
    """One keyed hash of all that goes in, files by name, size and time: equal inputs are not prepared twice."""
    state = hmac.new(key, f"{manifest.FORMAT} {settings.digest()} ".encode(), "sha256")
    for file in sorted(rows):
        state.update(repr((file, rows[file])).encode("utf-8", "surrogateescape"))
    for path in [source / file for file in files] + sorted(one for row in rows.values() for one in row.masks.values()):
        with suppress(FileNotFoundError):  # since it was listed; converting it will give the reason
            found = path.lstat()
            state.update(os.fsencode(path.relative_to(source) if path.is_relative_to(source) else path))
            state.update(f"\0{found.st_size} {found.st_mtime_ns} {found.st_mode}\0".encode())
    return state.hexdigest()


def _done(folder: Path, fingerprint: str) -> bool:
    """Whether the dataset has been made of just this, and all its images are there as they were written."""
    with suppress(OSError, ValueError, KeyError):
        made = json.loads((folder / "dataset.json").read_text())["fingerprint"] == fingerprint
        images = pd.read_csv(folder / "manifest.csv", dtype=str).to_dict("records")
        return made and all(_is_whole(folder / image["file"], image) for image in images)
    return False


def _convert(
    job: Job, files: list[str], rows: dict | None, journal: Journal, progress: bool, workers: int | None
) -> None:
    """Give each of the files an entry in the journal: its part of the manifest, or the reason why not."""
    done = {entry["position"] for entry in journal if "reason" in entry or _is_whole(job.folder / entry["file"], entry)}
    tasks = (
        Task(file, pseudonyms.image_id(job.key, file), sources.Row() if rows is None else rows.get(file), position)
        for position, file in enumerate(files, start=1)
        if position not in done
    )
    workers = min(workers or (processes.cores() if len(files) >= FEW else 1), len(files))
    with _bar(disable=not progress, desc="prepare", total=len(files), initial=len(done)) as bar:
        for task, told in convert.convert_all(job, tasks, workers):
            journal.add({"position": task.position, "image_id": task.image_id, "file": task.image_id} | told)
            bar.update()


def _is_whole(path: Path, entry: dict) -> bool:
    """Whether a power cut spared the image of this entry."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def _finish(job: Job, files: list[str], journal: Journal, named: dict, fingerprint: str) -> None:
    """Write manifest.csv, rejects.csv, examples/ and dataset.json; crops take the place of an earlier preparing's."""
    accepted, told = manifest.outcome(journal, job.settings)
    told = named | told | {"examples": _keep_examples(job, files, accepted), "fingerprint": fingerprint}
    manifest.write(job.folder, journal, accepted["split"], told)
    if job.suspects.is_dir():
        paths.clear(job.suspects)  # of what killed processes had not finished
        paths.put(job.suspects, paths.suspected_text(named["name"]))
    elif not told["counts"]["suspected_text"]:  # else a kill came between this and the dataset's own name
        shutil.rmtree(paths.suspected_text(named["name"]), ignore_errors=True)


def _keep_examples(job: Job, files: list[str], accepted: pd.DataFrame) -> list[str]:
    """Keep the first radiograph of each class as it was read; returns their image_ids, a positive one first."""
    first = accepted.drop_duplicates("label").sort_values("label", ascending=False)
    tasks = [Task(files[row.position - 1], row.image_id, sources.Row()) for row in first.itertuples()]
    as_read = job.settings.varied(equalise="none", downsize=1, format="png", burned_in="ignore")
    for _, told in convert.convert_all(replace(job, settings=as_read, images="examples"), tasks, 1):
        refuse("reason" in told, "a source file has changed while it was prepared: run the same command again")
    return [task.image_id for task in tasks]
