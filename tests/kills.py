"""Processes killed at random moments, and the same work asked for again: `python tests/kills.py 300 [SEED]`.

Each stage is done once undisturbed; then, in other folders, killed again and again until it is done. After each kill
every file that bears its final name must be readable; at the end all must be as in the undisturbed folder.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # a fork must not meet threads

import csv
import itertools
import json
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "road"))

import cv2
import nbformat
import numpy as np
import torch
import toy
from safetensors.torch import load_file
from sources import folder_of_pictures
from test_reproduce import notebook

from pneumo_nb import paths, prepare, reproduce
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import dataset, loop, runs

PATIENCE = 120  # seconds for work that takes a few
EPOCHS = 6
NETWORK = {"model": "densenet", "depth": 7, "blocks": 2, "bottleneck": False, "growth_rate": 4, "drop_rate": 0.2}
SETTINGS = {"image_size": 32, "channels": 1, "epochs": EPOCHS, "batch_size": 4}
TIMES = ("seconds", "images_per_second", "peak_memory_mib")
BODY = """import time
from pneumo_nb import paths
for number in range(5):
    with paths.whole(paths.report() / "tables.csv") as file:
        file.write_text("number\\n" + f"{number}\\n" * 5000)
    time.sleep(0.05)
print(number)"""


def preparing(home: Path) -> None:
    prepare.prepare(home.parent / "source", None, "x", progress=False, workers=2)


def training(home: Path) -> None:
    _train("many-to-train", home, "last")


def evaluating(home: Path) -> None:
    _train("many-to-test", home, "best_validation")


def _train(name: str, home: Path, epoch_reported: str) -> None:
    counted = loop.batches

    def count(labels, settings, epoch):
        if epoch:  # number 0 is no epoch: the batches of the training set's statistics
            with (home / "epochs.txt").open("a") as file:
                file.write(f"{epoch}\n")
        return counted(labels, settings, epoch)

    loop.batches = count
    settings = TrainSettings.of(epoch_reported=epoch_reported, **SETTINGS, **NETWORK)
    data = dataset.load(name, settings)
    runs.load_or_train(settings, data, torch.device("cpu"), progress=False)


def reporting(home: Path) -> None:
    paths.notebooks = lambda: home.parent / "notebooks"
    reproduce.reproduce({})


STAGES: tuple[Callable[[Path], None], ...] = (training, evaluating, preparing, reporting)


def make(home: Path) -> Path:
    """A project folder with all that the stages start from."""
    model = home.parent / "model"
    if not model.exists():
        os.environ["PNEUMO_NB_HOME"] = str(model)
        toy.prepared("many-to-train", images=60, validation=4)
        toy.prepared("many-to-test", images=300, validation=190)
        (model / "pseudonym.key").write_text("0" * 64 + "\n")
        (model / "pseudonym.key").chmod(0o600)
    shutil.copytree(model, home)
    return home


def start(stage: Callable[[Path], None], home: Path) -> int:
    """Do the work in a process of its own, as if a user had called it; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        log = os.open(home / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["PNEUMO_NB_HOME"] = str(home)
        sys.modules["__main__"] = types.ModuleType("__main__")  # workers need not import this file, and torch with it
        stage(home)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a process, or None if it is still at work after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def unreadable(home: Path) -> list[str]:
    """Files that bear their final name and cannot be read."""
    bad = []
    for path in sorted(home.rglob("*")):
        inner = path.relative_to(home)
        if not path.is_file() or any(part.startswith(".") for part in inner.parts) or inner.name.endswith(".txt"):
            continue
        try:
            read(path)
        except Exception as error:
            bad.append(f"{inner} ({type(error).__name__}: {error})")
    return bad


def read(path: Path) -> object:
    """What a file holds, in a form in which two can be compared; of what depends on the clock, nothing."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        timed = {*TIMES, *(name for name in content if name.endswith(".ipynb"))}  # signatures of what holds times
        return {name: value for name, value in content.items() if name not in timed}
    if path.suffix == ".csv":
        rows = list(csv.reader(path.open(newline="")))
        assert rows and len({len(row) for row in rows}) == 1, "ragged"
    elif path.suffix in (".png", ".jpg"):
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None, "no image"
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    elif path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return [(cell.source, cell.get("outputs")) for cell in cells]
    elif path.suffix == ".html":
        text = path.read_text()
        assert text.endswith("</html>\n"), "cut"
        return re.sub("done in [0-9]+ s|[0-9-]{10} [0-9:]{5}|<!-- [0-9a-f]{64} -->", "", text)
    return path.read_bytes()


def found(home: Path) -> dict[str, object]:
    """All that a project folder holds in the end, by name; only the counting and the log are left out."""
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".txt"]
    return {str(path.relative_to(home)): read(path) for path in files}


def main(kills: int, seed: int = 0) -> list[str]:
    """Kill so many times, each stage as often; returns what went wrong, in words."""
    random, wrong = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folder_of_pictures(root / "source", 40, 40)
        (root / "notebooks").mkdir()
        notebook(root / "notebooks", "01_only", BODY)
        for place, stage in enumerate(STAGES):
            undisturbed = make(root / stage.__name__)
            before = time.monotonic()
            if os.waitpid(start(stage, undisturbed), 0)[1]:
                return [f"{stage.__name__} fails undisturbed: {(undisturbed / 'log.txt').read_text()}"]
            seconds, wanted = time.monotonic() - before, found(undisturbed)
            left = kills // len(STAGES) + (place < kills % len(STAGES))
            for life in itertools.count():
                if left <= 0:
                    break
                home = make(root / f"{stage.__name__}-{life}")
                done, problems = one_life(stage, home, min(left, int(random.integers(1, 5))), seconds, random)
                left -= done
                problems += compare(found(home), wanted)
                wrong += [f"{stage.__name__}, life {life}, seed {seed}: {problem}" for problem in problems]
                shutil.rmtree(home)
    return wrong


def one_life(stage, home: Path, kills: int, seconds: float, random: np.random.Generator) -> tuple[int, list[str]]:
    """Start the work, and kill it, up to `kills` times; then let it end. How often it was killed, and what is wrong."""
    done, problems = 0, []
    while done < kills:
        child = start(stage, home)
        if ended(child, random.uniform(0, seconds)) is not None:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
        problems += [f"unreadable after kill {done}: {name}" for name in unreadable(home)]
    if ended(child := start(stage, home), PATIENCE) is None:
        os.kill(child, signal.SIGKILL)
        problems.append("hangs")
    if (home / "epochs.txt").is_file():
        begun = len((home / "epochs.txt").read_text().split())
        if begun > EPOCHS + done:
            problems.append(f"{begun} epochs begun for {EPOCHS}, with {done} kills: more than one lost by one kill")
    return done, problems


def compare(at_the_end: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """How a project folder differs from the undisturbed one."""
    differing = [name for name, value in wanted.items() if at_the_end.get(name) != value]
    more = sorted(at_the_end.keys() - wanted.keys())
    return [f"differs: {differing}"] * bool(differing) + [f"left behind: {more}"] * bool(more)


if __name__ == "__main__":
    asked = [int(text) for text in sys.argv[1:]]
    failures = main(*asked)
    print("\n".join(failures) or f"{asked[0]} kills: nothing unreadable, nothing lost, every end the same")
    sys.exit(bool(failures))
