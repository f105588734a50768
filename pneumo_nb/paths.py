"""Where everything lies, whatever the working directory, and how a file gets there whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """The project's folder; the environment variable PNEUMO_NB_HOME moves data/ and outputs/ elsewhere."""
    return Path(os.environ.get("PNEUMO_NB_HOME") or Path(__file__).parent.parent).resolve()


def notebooks() -> Path:
    """The numbered notebooks and their params/; they stay with the code wherever the data lie."""
    return Path(__file__).resolve().parent.parent / "notebooks"


def raw(name: str) -> Path:
    """Source radiographs that the project itself made (the phantom)."""
    return root() / "data" / "raw" / name


def prepared(name: str = "") -> Path:
    """The prepared dataset of that name; without a name, the folder of all of them."""
    return root() / "data" / "prepared" / name


def suspected_text(name: str) -> Path:
    """Crops of what may be text in the radiographs of a dataset, apart from it: sharing it does not share them."""
    return root() / "data" / "suspected_text" / name


def finished(name: str) -> Path:
    """The folder of a dataset that has been prepared; a ValueError lists those there are."""
    if not name or not (prepared(name) / "dataset.json").is_file():
        there = sorted(found.parent.name for found in prepared().glob("[!.]*/dataset.json"))
        raise ValueError(
            f"there is no prepared dataset {name!r}; there is {', '.join(there) or 'none yet'}:"
            " make one with python -m pneumo_nb prepare, or the phantom with notebook 01"
        )
    return prepared(name)


def runs(key: str = "") -> Path:
    """The run of that key; without a key, the folder of all runs."""
    return root() / "outputs" / "runs" / key


def executed() -> Path:
    """Notebooks as papermill executed them."""
    return root() / "outputs" / "executed"


def report() -> Path:
    """The pages and tables that `reproduce` writes."""
    return root() / "outputs" / "report"


def pseudonym_key() -> Path:
    """The secret that pseudonyms are made with: outside data/ and outputs/, so that sharing those does not share it."""
    return root() / "pseudonym.key"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a sibling of `path` to write a file or a folder to; it takes the name `path` only if the block ends well.

    A file or folder already at `path` is replaced. Whatever goes wrong, nothing half-written bears the name `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield beside
        put(beside, path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def put(beside: Path, path: Path) -> None:
    """Give a finished file or folder the name `path`; what bore that name before is replaced."""
    _put_on_disk(beside)
    if path.is_dir():
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        path.rename(old)
        beside.rename(path)
        shutil.rmtree(old)
    else:
        beside.replace(path)


def _put_on_disk(path: Path) -> None:
    """Flush a file, or a folder, so that the rename that follows cannot outlive its contents."""
    if path.is_dir():
        os.sync()  # at once: one by one, the files of a large dataset take minutes
        return
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())
