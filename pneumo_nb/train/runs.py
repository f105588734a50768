"""Settings -> key -> record: train a run once, load it ever after, from its folder or from a reference."""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

from pneumo_nb import metrics, paths, settings
from pneumo_nb.settings import TrainSettings, digest, refuse
from pneumo_nb.train import checkpoints, dataset, loop, models, reference

RUN_FORMAT = 5  # of a record, and of what training means: raise it when equal settings would give other numbers


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and on demand its history, predictions and network."""

    key: str
    record: dict
    reference: str = ""  # that tells of it; empty: it has a folder of its own

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
        own = paths.runs(self.key) / "history.csv"
        return reference.history(self.reference, self.key) if self.reference else pd.read_csv(own)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row for each radiograph: image_id, patient_id, split, label, probability of pneumoconiosis."""
        own = paths.runs(self.key) / "predictions.csv"
        return reference.predictions(self.reference, self.key) if self.reference else pd.read_csv(own)

    def on(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities, both (images,), of the training set (`train`) or the testing set (`test`)."""
        of_split = self.predictions[self.predictions["split"] == split]
        return of_split["label"].to_numpy(), of_split["probability"].to_numpy()

    def truth(self) -> pd.DataFrame:
        """What is known of each radiograph, by image_id: stage, letter, profusion, large; as text, empty if unknown."""
        data, known = self.record["dataset"], pd.DataFrame(columns=["image_id"], dtype=str)
        if dataset.hash_of(data["name"]) == data["hash"]:
            known = pd.read_csv(paths.prepared(data["name"]) / "manifest.csv", keep_default_na=False, dtype=str)
        elif self.reference:
            known = reference.images(self.reference, self.key)
        return known.set_index("image_id").reindex(columns=reference.TRUTH, fill_value="")

    def check_fits(self, data: dataset.Dataset) -> None:
        """A ValueError unless the run was trained on this dataset, at this size and fit."""
        trained_on = self.record["dataset"]
        if trained_on["hash"] != data.hash:
            raise ValueError(f"run {self.key!r} was trained on {trained_on['name']!r}, which is not this {data.name!r}")
        data.refuse_others(self.settings)

    def network(self) -> torch.nn.Module:
        """The trained network, on the CPU; a ValueError if it was not kept, or does not fit."""
        where = f"outputs/reference/{self.reference}, which holds no weights"
        refuse(self.reference, f"run {self.key} is known from {where}: ask for it with weights=True to train it here")
        net = models.build(**self.settings.architecture())
        weights = paths.runs(self.key) / "weights.safetensors"
        checkpoints.load_weights(net, weights, f"{weights.name} of run {self.key}", self.settings.model)
        return net.eval()


def set_up(names: dict, *own: str, **fixed) -> tuple[TrainSettings, tuple[int, ...], torch.device, dataset.Dataset]:
    """What a notebook trains with, from its names: settings, seeds, device and dataset.

    `own` are parameters of the notebook alone, `fixed` settings that it does not leave open. The phantom is made if it
    is missing. A ValueError names what is no parameter or has a wrong value.
    """
    settings.refuse_unknown(names, own)
    base, seeds = TrainSettings.from_parameters(names, **fixed), settings.seeds(names["SEEDS"])
    on, name = device(names["DEVICE"], elsewhere=bool(names.get("SCHEDULER"))), names["DATASET"]
    if settings.is_phantom(name) and not paths.prepared(name).is_dir():
        from pneumo_nb import prepare  # beside this folder, not below it: for this alone

        stages = settings.PhantomSettings, settings.PrepareSettings  # as notebook 01 would make it
        prepare.phantom(name, *(stage.from_parameters(settings.SMOKE | names) for stage in stages))
    return base, seeds, on, dataset.load(name, base)


def device(name: str = "auto", elsewhere: bool = False) -> torch.device:
    """`auto` is the GPU where there is one; a ValueError if the one asked for is not there, nor perhaps `elsewhere`."""
    refuse(name not in ("auto", "cpu", "cuda"), f"device = {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not (elsewhere or torch.cuda.is_available()):
        raise ValueError("device = 'cuda', but torch finds no GPU here: choose auto or cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def key(settings: TrainSettings, dataset_hash: str) -> str:
    """The name of a run's folder: a hash of all that decides its numbers, the contents of `initial_weights` too."""
    decisive = {"settings": settings.model_dump(), "dataset": dataset_hash, "format": RUN_FORMAT}
    initial = Path(settings.initial_weights)
    if settings.initial_weights != "scratch" and initial.is_file():  # without the file, training refuses
        decisive["initial_weights"] = hashlib.sha256(initial.read_bytes()).hexdigest()
    return digest(decisive)[:16]


def is_finished(run_key: str, weights: bool = False) -> bool:
    """Whether there is a run of that key, in outputs/runs with all its files or, without `weights`, in a reference."""
    return (paths.runs(run_key) / "record.json").is_file() or (not weights and run_key in reference.records())


def load(run_key: str) -> Run:
    """The finished run of that key; a ValueError if there is none, or none that this version can read."""
    there = run_key.isalnum() and is_finished(run_key)  # no path to somewhere else
    refuse(not there, f"there is no finished run {run_key!r} in outputs/runs or outputs/reference")
    own = is_finished(run_key, weights=True)
    name, record = ("", reference.read(paths.runs(run_key) / "record.json")) if own else reference.records()[run_key]
    if (theirs := record["format"]) != RUN_FORMAT:
        raise ValueError(f"run {run_key} has format {theirs}; this version reads and trains format {RUN_FORMAT}")
    return Run(run_key, record, name)


def load_or_train(
    settings: TrainSettings, data: dataset.Dataset, on: torch.device, progress: bool = True, weights: bool = False
) -> Run:
    """The run with these settings on this dataset: loaded if it was trained before, else trained and stored.

    Of two processes that ask for one run the second says so and waits. One that was interrupted goes on from its last
    checkpoint; one that a reference tells of is trained only for its `weights`. A ValueError as `refuse_others`.
    """
    data.refuse_others(settings)
    run_key = key(settings, data.hash)
    folder, checkpoint = paths.runs(run_key), paths.runs(run_key) / "checkpoint.pt"
    if not is_finished(run_key, weights) or checkpoint.is_file():
        with paths.alone(paths.runs(f".{run_key}.lock"), f"run {run_key}"):
            paths.clear(folder)
            if not is_finished(run_key, weights):
                _store(folder, settings, data, loop.fit(settings, data, on, checkpoint, progress), on)
            checkpoint.unlink(missing_ok=True)
    return load(run_key)


def _store(folder: Path, settings, data, trained: loop.Trained, on: torch.device) -> None:
    """Write a run's files, the record last: a run without a record is not finished."""
    predictions = data.manifest[reference.IMAGE].assign(probability=trained.probabilities)
    on_test = predictions[predictions["split"] == "test"]
    labels, probabilities = on_test["label"].astype(int), on_test["probability"]
    record = {
        "key": folder.name,
        "format": RUN_FORMAT,
        "settings": settings.model_dump(),
        "dataset": {"name": data.name, "hash": data.hash, "images": len(predictions)},
        "epoch_reported": trained.epoch_reported,
        "threshold": trained.threshold,
        "test": asdict(metrics.Counts.of(labels, probabilities >= trained.threshold)),
        "test_auc": metrics.auc(labels, probabilities),
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "seconds": round(trained.seconds, 3),
        "images_per_second": round(settings.epochs * len(data.part("train")) / trained.seconds, 3),
        "peak_memory_mib": round(trained.peak_memory_mib, 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("pneumo_nb", "torch", "torchvision", "numpy", "opencv-python-headless")},
    }
    files = {
        "history.csv": trained.history.to_csv(index=False),
        "predictions.csv": predictions.to_csv(index=False),
        "weights.safetensors": save({name: value.contiguous() for name, value in trained.weights.items()}),
        "record.json": json.dumps(record, indent=2) + "\n",
    }
    for name, content in files.items():
        paths.write(folder / name, content)


def finished(*dataset_hashes: str) -> list[Run]:
    """All finished runs on these datasets, for each by their keys; none of another format: it means other numbers."""
    found = {path.parent.name: ("", reference.read(path)) for path in paths.runs().glob("*/record.json")}
    every = sorted((reference.records() | found).items())
    of_format = [Run(key, record, name) for key, (name, record) in every if record["format"] == RUN_FORMAT]
    return [run for wanted in dataset_hashes for run in of_format if run.record["dataset"]["hash"] == wanted]
