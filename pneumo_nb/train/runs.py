"""Settings -> key -> record: train a run once, load it ever after, and gather the records into tables."""

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

from pneumo_nb import metrics, paths
from pneumo_nb.settings import TrainSettings, digest
from pneumo_nb.train import checkpoints, dataset, loop, models

FORMAT = 3  # of a run's folder, and of what training means: raise it when equal settings would give other numbers


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and on demand its history, predictions and network."""

    key: str
    record: dict

    @property
    def settings(self) -> TrainSettings:
        """The settings that it was trained with."""
        return TrainSettings.of(**self.record["settings"])

    @property
    def counts(self) -> metrics.Counts:
        """TP, FP, FN and TN on the testing set, at the epoch reported and the threshold used."""
        return metrics.Counts(**self.record["test"])

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row for each epoch: loss, counts and metrics of training, validation and testing."""
        return pd.read_csv(paths.runs(self.key) / "history.csv")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row for each radiograph: image_id, patient_id, split, label, probability of pneumoconiosis."""
        return pd.read_csv(paths.runs(self.key) / "predictions.csv")

    def on(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities, both (images,), of the training set (`train`) or the testing set (`test`)."""
        of_split = self.predictions[self.predictions["split"] == split]
        return of_split["label"].to_numpy(), of_split["probability"].to_numpy()

    def check_fits(self, data: dataset.Dataset) -> None:
        """A ValueError unless the run was trained on this dataset, at this size."""
        trained_on, size = self.record["dataset"], data.images.shape[-1]
        if trained_on["hash"] != data.hash:
            raise ValueError(f"run {self.key!r} was trained on {trained_on['name']!r}, which is not this {data.name!r}")
        if self.settings.image_size != size:
            raise ValueError(
                f"run {self.key!r} was trained at {self.settings.image_size} x {self.settings.image_size} pixels;"
                f" the radiographs here are {size} x {size}"
            )

    def network(self) -> torch.nn.Module:
        """The trained network, on the CPU."""
        net = models.build(**self.settings.architecture())
        weights = paths.runs(self.key) / "weights.safetensors"
        checkpoints.load_weights(net, weights, f"{weights.name} of run {self.key}", self.settings.model)
        return net.eval()


def device(name: str = "auto", elsewhere: bool = False) -> torch.device:
    """`auto` is the GPU where there is one; a ValueError says so where the one asked for is not there.

    With `elsewhere` the runs are trained on other machines, whose GPUs cannot be looked for from here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device = {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not (elsewhere or torch.cuda.is_available()):
        raise ValueError("device = 'cuda', but torch finds no GPU here: choose auto or cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def key(settings: TrainSettings, dataset_hash: str) -> str:
    """The name of a run's folder: a hash of all that decides its numbers, the contents of `initial_weights` too."""
    decisive = {"settings": settings.model_dump(), "dataset": dataset_hash, "format": FORMAT}
    initial = Path(settings.initial_weights)
    if settings.initial_weights != "scratch" and initial.is_file():  # without the file, training refuses
        with initial.open("rb") as file:
            decisive["initial_weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(decisive)[:16]


def is_finished(run_key: str) -> bool:
    """Whether there is a run of that key with all its files."""
    return bool(run_key) and (paths.runs(run_key) / "record.json").is_file()


def load(run_key: str) -> Run:
    """The finished run of that key; a ValueError if there is none, or none that this version can read."""
    if not is_finished(run_key):
        raise ValueError(f"there is no finished run {run_key!r} in outputs/runs")
    record = _record(run_key)
    if record["format"] != FORMAT:
        raise ValueError(f"run {run_key} has format {record['format']}; this version reads and trains format {FORMAT}")
    return Run(run_key, record)


def _record(run_key: str) -> dict:
    try:
        record = json.loads((paths.runs(run_key) / "record.json").read_text())
        return record | {"format": record["format"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"record.json of run {run_key} is damaged: remove its folder to train it anew") from None


def load_or_train(settings: TrainSettings, data: dataset.Dataset, on: torch.device, progress: bool = True) -> Run:
    """The run with these settings on this dataset: loaded if it was trained before, else trained and stored.

    Two processes that ask for one run train it once: the second says so and waits for the first. A run that was
    interrupted goes on from its last checkpoint.
    """
    run_key = key(settings, data.hash)
    folder, checkpoint = paths.runs(run_key), paths.runs(run_key) / "checkpoint.pt"
    if not is_finished(run_key) or checkpoint.is_file():
        with paths.alone(paths.runs(f".{run_key}.lock"), f"run {run_key}"):
            paths.clear(folder)
            if not is_finished(run_key):
                trained = loop.fit(settings, data, on, checkpoint, progress)
                _store(folder, settings, data, trained, on)
            checkpoint.unlink(missing_ok=True)
    return load(run_key)


def _store(folder: Path, settings, data, trained: loop.Trained, on: torch.device) -> None:
    """Write a run's files, the record last: a run without a record is not finished."""
    predictions = data.manifest[["image_id", "patient_id", "split", "label"]].assign(probability=trained.probabilities)
    on_test = predictions[predictions["split"] == "test"]
    counts = metrics.Counts.of(on_test["label"].astype(int), on_test["probability"] >= trained.threshold)
    images = settings.epochs * int((predictions["split"] == "train").sum())
    record = {
        "key": folder.name,
        "format": FORMAT,
        "settings": settings.model_dump(),
        "dataset": {"name": data.name, "hash": data.hash, "images": len(predictions)},
        "epoch_reported": trained.epoch_reported,
        "threshold": trained.threshold,
        "test": {name: getattr(counts, name) for name in ("tp", "fp", "fn", "tn")},
        "test_auc": metrics.auc(on_test["label"].astype(int).tolist(), on_test["probability"].tolist()),
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "seconds": round(trained.seconds, 3),
        "images_per_second": round(images / trained.seconds, 3),
        "peak_memory_mib": round(trained.peak_memory_mib, 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("pneumo_nb", "torch", "torchvision", "numpy", "opencv-python-headless")},
    }
    with paths.whole(folder / "history.csv") as file:
        trained.history.to_csv(file, index=False)
    with paths.whole(folder / "predictions.csv") as file:
        predictions.to_csv(file, index=False)
    with paths.whole(folder / "weights.safetensors") as file:
        file.write_bytes(save({name: value.contiguous() for name, value in trained.weights.items()}))
    with paths.whole(folder / "record.json") as file:
        file.write_text(json.dumps(record, indent=2) + "\n")


def finished(dataset_hash: str) -> list[Run]:
    """All finished runs on one prepared dataset, in the order of their keys; none of another format: it means other."""
    keys = [path.parent.name for path in sorted(paths.runs().glob("*/record.json"))]
    found = [Run(run_key, _record(run_key)) for run_key in keys]
    return [run for run in found if run.record["format"] == FORMAT and run.record["dataset"]["hash"] == dataset_hash]
