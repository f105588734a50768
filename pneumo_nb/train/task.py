"""What a Dask worker does for a sweep. The scheduler reads this file too, so torch is imported in the worker only."""

import json

from distributed import get_worker

from pneumo_nb import paths


def train(settings: dict, name: str, dataset_hash: str, device: str) -> None:
    """Train one run from the worker's own reading of the dataset; a ValueError says how the worker is unfit."""
    from pneumo_nb.settings import TrainSettings
    from pneumo_nb.train import dataset, runs

    wanted = TrainSettings.of(**settings)
    worker = get_worker().state
    if worker.nthreads > 1 and worker.total_resources.get("GPU") != 1:  # torch's seeds belong to the whole process
        raise ValueError(f"a worker of {worker.nthreads} threads would mix up runs: use `dask worker --nthreads 1`")
    about = paths.prepared(name) / "dataset.json"
    same = about.is_file() and json.loads(about.read_text())["hash"] == dataset_hash
    if not same or not paths.runs(runs.key(wanted, dataset_hash)).is_dir():
        raise ValueError(f"a worker sees another data/ or outputs/, without this {name!r}: the cluster must share them")
    data = dataset.load(name, wanted.image_size, wanted.fit)
    runs.load_or_train(wanted, data, runs.device(device), progress=False)
