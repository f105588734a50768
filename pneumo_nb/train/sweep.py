"""Many runs: one after another here, or at once on a Dask cluster, of this machine's processes or of many machines."""

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import dask
import torch
from distributed import Client, Nanny, Scheduler, Security, SpecCluster, as_completed, get_worker
from distributed.comm import connect
from tqdm.auto import tqdm

from pneumo_nb import paths, processes
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import runs
from pneumo_nb.train.dataset import Dataset

KIND = "train-"  # of Dask's tasks, as their keys begin
PATIENCE = 10  # seconds for a scheduler to answer, and for its first worker to come


def train_all(
    wanted: Sequence[TrainSettings], data: Dataset, device: torch.device, scheduler: str = "", weights: bool = False
) -> list[runs.Run]:
    """The runs with these settings on this dataset, in this order: those finished before are loaded, others trained.

    They are trained here, one after another, or at once on the workers of the Dask `scheduler` at that address, which
    must share data/ and outputs/; with `weights` also those that a reference tells of. Failed runs stop no others: in
    the end a RuntimeError names each and its reason. A ValueError says what the cluster lacks, or as `refuse_others`.
    """
    for settings in wanted:
        data.refuse_others(settings)
    asked = {runs.key(settings, data.hash): settings for settings in wanted}
    missing = {key: settings for key, settings in asked.items() if not runs.is_finished(key, weights)}
    train = _train_on_cluster if scheduler else _train_here
    if missing and (failures := train(missing, data, device, scheduler)):
        raise RuntimeError(_all_in_one_line(failures, asked))
    return [runs.load(runs.key(settings, data.hash)) for settings in wanted]


def train_columns(columns: dict[str, TrainSettings], seeds: Sequence[int], *how, **more) -> dict[str, list[runs.Run]]:
    """The runs of a table: for each column one of each seed, all by one call of `train_all`, which takes the rest."""
    trained = iter(train_all([column.varied(seed=seed) for column in columns.values() for seed in seeds], *how, **more))
    return {name: [next(trained) for _ in seeds] for name in columns}


@contextmanager
def _as_shipped() -> Iterator[None]:
    """Dask as it comes, here and in what is started meanwhile, whatever a site's or a user's files and variables say.

    A cluster of this machine's own processes needs no certificates, plugins or ports of somebody else's cluster.
    """
    plain = dask.config.merge(*dask.config.defaults)
    theirs = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("DASK_")}
    os.environ["DASK_INTERNAL_INHERIT_CONFIG"] = dask.config.serialize(plain)
    try:
        with dask.config.set(plain):
            yield
    finally:
        del os.environ["DASK_INTERNAL_INHERIT_CONFIG"]
        os.environ.update(theirs)


def address(text: str) -> str:
    """The address of a Dask scheduler as it was given; a ValueError if it cannot be one."""
    port = re.fullmatch(r"(?:(?:tcp|tls)://)?(?:\[[\da-fA-F:]+\]|[\w.-]+):(\d{1,5})", text)
    if not port or not 0 < int(port[1]) < 65536:
        raise ValueError(f"scheduler = {text!r}: host:port or tcp://host:port, as `dask scheduler` prints it, is right")
    return text


@contextmanager
def cluster(jobs: int, device: torch.device) -> Iterator[str]:
    """A Dask cluster of `jobs` processes on this machine, reached from this machine alone; yields its address.

    The processes share the cores; on a GPU each is given one GPU, in turn if there are fewer GPUs than processes.
    """
    quiet = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    env = {"OMP_NUM_THREADS": str(max(1, processes.cores() // jobs))}
    common = quiet | {"nthreads": 1, "memory_limit": 0, "silence_logs": "CRITICAL"}
    own = [{"env": env}] * jobs
    if device.type == "cuda":
        given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        gpus = (given.split(",") * jobs)[:jobs]
        own = [{"env": env | {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {"GPU": 1}} for gpu in gpus]
    workers = {number: {"cls": Nanny, "options": common | options} for number, options in enumerate(own)}
    with (
        _as_shipped(),
        tempfile.TemporaryDirectory(prefix="pneumo_nb-") as folder,
        # Dask's own number of threads, 1, would also be set in this process, and so in the notebooks it starts
        dask.config.set({"distributed.nanny.pre-spawn-environ": {}, "temporary-directory": folder}),
        SpecCluster(workers, {"cls": Scheduler, "options": quiet}, silence_logs="CRITICAL") as local,
    ):
        yield local.scheduler_address


def _train_here(missing: dict[str, TrainSettings], data: Dataset, device: torch.device, _: str) -> dict:
    """Train one run after another; returns the error of each that failed, by its key."""
    failures = {}
    for key, settings in missing.items():
        try:
            runs.load_or_train(settings, data, device, weights=True)
        except Exception as error:
            failures[key] = error.with_traceback(None)  # its frames would keep the failed run's memory
    return failures


def _train_on_cluster(missing: dict[str, TrainSettings], data: Dataset, device: torch.device, scheduler: str) -> dict:
    """Train runs as Dask tasks; returns the error of each that failed, by its key."""
    for key in missing:
        paths.runs(key).mkdir(parents=True, exist_ok=True)  # the sign by which a worker knows that it shares outputs/
    train, needs = _task(data.name, data.hash, device.type), {"GPU": 1} if device.type == "cuda" else {}
    with _client(scheduler, needs) as client:
        # by its run's key, a task that two ask the scheduler for is done once; by KIND, it knows how long others took,
        # and moves what waits behind a long one to a worker without work
        asked = [client.submit(train, one, key, key=KIND + key, resources=needs) for key, one in missing.items()]
        done = as_completed(asked, loop=client.loop)
        done = tqdm(done, desc="runs on the cluster", total=len(asked), unit="run", leave=False)
        gone = ConnectionError("the Dask scheduler went away")
        errors = {one.key.removeprefix(KIND): gone if one.status == "cancelled" else one.exception() for one in done}
    return {key: errors[key] for key in missing if errors.get(key)}  # not as they happened to end


def _task(name: str, dataset_hash: str, device: str) -> Callable[[TrainSettings, str], None]:
    """What a worker does; a function in a function is sent as it is: the scheduler need not import torch for it."""

    def train(settings: TrainSettings, key: str) -> None:
        from pneumo_nb import paths
        from pneumo_nb.train import dataset, runs

        worker = get_worker().state
        if worker.nthreads > 1 and worker.total_resources.get("GPU") != 1:  # torch's seeds belong to the whole process
            raise ValueError(f"a worker of {worker.nthreads} threads would mix up runs: use `dask worker --nthreads 1`")
        if dataset.hash_of(name) != dataset_hash or not paths.runs(key).is_dir():
            raise ValueError(f"a worker sees other data/ or outputs/ without {name!r}: the cluster must share them")
        runs.load_or_train(settings, dataset.load(name, settings), runs.device(device), progress=False, weights=True)

    return train


@contextmanager
def _client(scheduler: str, needs: dict[str, int]) -> Iterator[Client]:
    """A client of the scheduler at this address; a ValueError unless it answers and has a worker to train on."""

    async def greet() -> None:  # Client itself would wait for ever where something listens but is no scheduler
        secrets = Security().get_connection_args("client")
        (await asyncio.wait_for(connect(address(scheduler), timeout=PATIENCE, **secrets), PATIENCE)).abort()

    try:
        with ThreadPoolExecutor() as beside:  # a notebook's own thread has an event loop already
            beside.submit(asyncio.run, greet()).result()
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except OSError:
        raise ValueError(f"no Dask scheduler answers at {scheduler}: start one, or leave the address empty") from None
    with client:
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=PATIENCE)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(needs.items() <= worker["resources"].items() for worker in workers):
            there, how = f"{len(workers)} workers, none to train on", " with --resources GPU=1" if needs else ""
            raise ValueError(f"the Dask scheduler has {there}: start `dask worker`{how} first")
        yield client


def _all_in_one_line(failures: dict[str, BaseException], asked: dict[str, TrainSettings]) -> str:
    """The failed runs, each by the settings in which those asked for differ, with what they died of."""
    differing = [name for name in TrainSettings.model_fields if len({getattr(s, name) for s in asked.values()}) > 1]
    by_reason: dict[str, list[str]] = {}
    for key, error in failures.items():
        names = ", ".join(f"{field} = {getattr(asked[key], field)}" for field in differing or ["model", "seed"])
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        by_reason.setdefault(reason, []).append(f"({names})")
    listed = "; ".join(f"{' '.join(names)} {reason}" for reason, names in by_reason.items())
    return f"{len(failures)} of {len(asked)} runs failed: {listed}"
