"""Fixtures that every test file may ask for."""

from collections.abc import Iterator
from pathlib import Path

import disks
import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real radiographs and DICOM files beside the checkout; tests that need them are skipped where they are not."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data" / "dicom-real").is_dir():
        pytest.skip("no real radiographs: the folder ../shared/data is not beside this checkout")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty project root: data/ and outputs/ of a test never touch those of the checkout."""
    monkeypatch.setenv("PNEUMO_NB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MiB of its own; tests that need one are skipped where only an administrator may mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        with disks.mounted(folder, "4m"):
            yield folder
    except OSError:
        pytest.skip("no small disk: this user may not mount one")
