"""Where everything lies, whatever the working directory, and how a file gets there whole or not at all."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # only writing can meet these
FORBIDDEN = {errno.EACCES, errno.EPERM}  # reading can meet these too
SOCKETS = 70  # characters of a folder for temporary files: a socket's whole path may have 103
TEXTS = ("label", "stage", "profusion", "letter", "view", "photometric")  # columns of a manifest; '' for nothing
NUMBERS = ("large", "diameter_mm", "largest_mm", "spacing_mm")  # columns of a manifest; NaN for nothing


def root() -> Path:
    """The project's folder; the environment variable PNEUMO_NB_HOME moves data/ and outputs/ elsewhere.

    A ValueError if that is relative, which would mean another folder in each notebook, or cannot be written into files.
    """
    given = Path(os.path.expanduser(os.environ.get("PNEUMO_NB_HOME") or notebooks().parent))  # noqa: PTH111
    if not given.is_absolute():
        raise ValueError(f"PNEUMO_NB_HOME = {str(given)!r}: an absolute folder, or one that begins with ~/, is right")
    if any("\udc80" <= letter <= "\udcff" for letter in f"{given.resolve()}{notebooks()}"):
        raise ValueError(f"a folder above the project's is not named in UTF-8: rename it ({str(given.resolve())!r})")
    return given.resolve()


def notebooks() -> Path:
    """The numbered notebooks and their params/; they stay with the code wherever the data lie."""
    return Path(__file__).resolve().parent.parent / "notebooks"


def raw(name: str) -> Path:
    """Source radiographs that the project itself made (the phantom)."""
    return root() / "data" / "raw" / name


def prepared(name: str = "") -> Path:
    """The prepared dataset of that name, or the folder of all; a ValueError for what cannot name one.

    That includes a number, since 0777 is another then.
    """
    if not isinstance(name, str):
        raise ValueError(f"DATASET = {name!r} is a number: write the name in quotes (papermill: -r DATASET NAME)")
    if name and not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
        raise ValueError(f"{name!r} cannot name a dataset: use up to 64 letters, digits, '-' and '_'")
    return root() / "data" / "prepared" / name


def suspected_text(name: str) -> Path:
    """Crops of what may be text in the radiographs of a dataset, apart from it: sharing it does not share them."""
    return root() / "data" / "suspected_text" / name


def read_dataset(name: str) -> tuple[Any, dict]:
    """Manifest (a DataFrame, a row for each image) and dataset.json of a dataset; a ValueError lists all there are."""
    import pandas as pd

    if not name or not (prepared(name) / "dataset.json").is_file():
        there = sorted(found.parent.name for found in prepared().glob("[!.]*/dataset.json"))
        told = f"there is no prepared dataset {name!r}; there is {', '.join(there) or 'none yet'}"
        raise ValueError(f"{told}: make one with python -m pneumo_nb prepare, or the phantom with notebook 01")
    kinds = {"dtype": dict.fromkeys(TEXTS, str), "na_values": dict.fromkeys(NUMBERS, "")}
    manifest = pd.read_csv(prepared(name) / "manifest.csv", keep_default_na=False, **kinds)
    return manifest, json.loads((prepared(name) / "dataset.json").read_text())


def runs(key: str = "") -> Path:
    """The run of that key; without a key, the folder of all runs."""
    return root() / "outputs" / "runs" / key


def report() -> Path:
    """The pages and tables that `reproduce` writes."""
    return root() / "outputs" / "report"


def pseudonym_secret() -> Path:
    """The secret that pseudonyms are made with: outside data/ and outputs/, so that sharing those does not share it."""
    return root() / "pseudonym.key"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a sibling of `path` to write a file or a folder to; it takes the name `path` only if the block ends well.

    A file or folder already at `path` is replaced. An OSError names `path` when the disk is full or may not be written.
    """
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            put(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):  # no file, or the error that led here says more
            beside.unlink()


def write(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file `whole`; text as UTF-8."""
    with whole(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def alone(lock: Path, work: str) -> Iterator[None]:
    """Hold the file `lock`; while another process holds it, say that `work` is in other hands, and wait.

    The system frees the lock when its owner ends, however it ends. An OSError says so where the file system has none:
    what would stand in its place, a marker file, outlives a killed owner, and two processes can take it.
    """
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = lock.open("ab")
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if getattr(multiprocessing.current_process(), "_inheriting", False):
                sys.exit(1)  # the owner's child, which imports its unguarded script: the owner, who waits, says so
            print(f"another process is busy with {work}: waiting until it is done", file=sys.stderr, flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:
            told = f"{_shown(lock)} cannot be locked: this file system has no locks (flock); set PNEUMO_NB_HOME to a"
            raise OSError(f"{told} folder on a local disk, or mount it with locks") from None
        try:
            yield
        finally:
            fcntl.flock(held, fcntl.LOCK_UN)  # closing is not enough where a forked child has the file open too


def clear(folder: Path) -> None:
    """Remove what killed processes left beside the files of a folder; nobody else may be writing there."""
    for left in folder.glob(".*.part*"):
        left.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """If the disk is full or refuses, the OSError names what was to be written, by its place in the project."""
    try:
        yield
    except OSError as error:
        beside = error.filename and Path(os.fsdecode(error.filename)).parent in path.parents
        if error.errno in FULL or (error.errno in FORBIDDEN and beside):
            raise type(error)(f"{_shown(path)} cannot be written: {os.strerror(error.errno)}") from None
        raise


def _shown(path: Path) -> str:
    return str(path.relative_to(root()) if path.is_relative_to(root()) else path.name)


def put(beside: Path, path: Path) -> None:
    """Flush a finished file or folder, and give it the name `path`; what bore that name before is replaced."""
    if beside.is_dir():
        os.sync()  # at once: one by one, the files of a large dataset take minutes
    else:
        with beside.open("rb+") as handle:
            os.fsync(handle.fileno())  # else the new name might outlive the contents
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    if path.is_dir():
        path.rename(old)
    beside.replace(path)
    shutil.rmtree(old, ignore_errors=True)
