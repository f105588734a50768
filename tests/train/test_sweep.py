"""Sweeps here, on Dask workers within this process (quick), and on processes started as a user starts them (real)."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import toy
from distributed import Client, Scheduler, SpecCluster, Worker

from pneumo_nb import paths, processes
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import loop, models, runs, sweep

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TINY = {"image_size": 32, "channels": 1, "epochs": 1, "batch_size": 8}
UNANSWERED = "tcp://127.0.0.1:1"  # a port that nobody listens at


def settings(**more):
    return TrainSettings.of(**(TINY | more))


def seeds(*numbers, **more):
    return [settings(seed=seed, **more) for seed in numbers]


@pytest.fixture
def data(home):
    return toy.load(toy.prepared())


@pytest.fixture
def small_network(monkeypatch):
    monkeypatch.setattr(models, "build", toy.build)


def test_a_table_has_a_run_of_every_seed_in_every_column(data, small_network):
    columns = {"n = 1": settings(scale_factor=1), "n = 5": settings(scale_factor=5)}
    trained = sweep.train_columns(columns, [3, 1], data, CPU)
    assert {name: [run.settings.seed for run in of_name] for name, of_name in trained.items()} == {
        "n = 1": [3, 1],
        "n = 5": [3, 1],
    }
    assert [run.settings.scale_factor for of_name in trained.values() for run in of_name] == [1, 1, 5, 5]


@contextmanager
def workers_here(*options):
    """A Dask cluster whose workers are threads of this process, where monkeypatching reaches them."""
    quiet = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    specified = {
        number: {"cls": Worker, "options": quiet | {"nthreads": 1} | more} for number, more in enumerate(options)
    }
    before = torch.are_deterministic_algorithms_enabled()
    try:
        with SpecCluster(specified, {"cls": Scheduler, "options": quiet}, silence_logs="CRITICAL") as cluster:
            yield cluster.scheduler_address
    finally:  # the switch is the process's: of two runs at once, the last to end puts back what the other had set
        torch.use_deterministic_algorithms(before)


@pytest.fixture
def two_workers(small_network):
    with workers_here({}, {}) as address:
        yield address


@pytest.fixture(params=["", "dask"], ids=["here", "dask"])
def place(request):
    return request.getfixturevalue("two_workers") if request.param else request.param


def test_the_runs_come_in_the_order_wanted_and_are_trained_once(data, small_network, place, monkeypatch):
    wanted = seeds(2, 0, 1, 2)
    first = sweep.train_all(wanted, data, CPU, place)
    assert [run.settings.seed for run in first] == [2, 0, 1, 2]
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("trained again"))
    assert sweep.train_all(wanted, data, CPU, UNANSWERED if place else "") == first


def test_failed_runs_are_named_with_their_reason_and_the_others_finish(data, small_network, place):
    bad, worse = settings(seed=1, initial_weights="gone.safetensors"), settings(seed=2, learning_rate=1e38)
    wanted = [bad, settings(seed=0), worse, bad.varied(seed=4), settings(seed=3)]
    with pytest.raises(RuntimeError) as failed:
        sweep.train_all(wanted, data, CPU, place)
    message = str(failed.value)
    assert message.startswith("3 of 5 runs failed: ") and "\n" not in message
    assert "seed = 4) ValueError: initial_weights = 'gone.safetensors' is not a file" in message
    assert message.count("is not a file") == 1 and "seed = 1) (" in message  # one reason is told once
    assert "seed = 2) FloatingPointError: the loss is not a number at epoch 1" in message
    assert "epochs" not in message.replace("epoch 1", "")  # only what tells the runs apart
    assert sorted(run.settings.seed for run in runs.finished(data.hash)) == [0, 3]


def test_runs_are_tasks_of_one_kind_so_that_dask_can_share_out_those_that_wait(data, two_workers):
    sweep.train_all(seeds(0, 1), data, CPU, two_workers)
    with Client(two_workers, set_as_default=False) as client:
        assert client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes)) == ["train"]


def test_a_worker_that_sees_another_dataset_or_other_outputs_refuses(data, two_workers, home, monkeypatch, tmp_path):
    about = paths.prepared("toy") / "dataset.json"
    about.write_text(about.read_text().replace("toy-0", "toy-changed"))
    with pytest.raises(RuntimeError, match=r"without 'toy': the cluster must share them"):
        sweep.train_all(seeds(0), data, CPU, two_workers)
    about.unlink()
    with pytest.raises(RuntimeError, match=r"without 'toy': the cluster must share them"):
        sweep.train_all(seeds(0), data, CPU, two_workers)
    assert runs.finished(data.hash) == []


def test_workers_read_the_dataset_as_the_settings_say_and_other_settings_are_refused(data, two_workers):
    larger = toy.load(image_size=48, fit="pad")
    (done,) = sweep.train_all([settings(image_size=48, fit="pad")], larger, CPU, two_workers)
    assert (done.settings.image_size, done.settings.fit) == (48, "pad")
    with pytest.raises(
        ValueError, match="loaded at image_size = 32, fit = stretch, and the settings say image_size = 48"
    ):
        sweep.train_all([settings(image_size=48)], data, CPU, two_workers)
    assert runs.finished(data.hash) == [done]


def test_a_worker_of_several_threads_is_refused_unless_it_takes_one_run_at_a_time(data, small_network, monkeypatch):
    with workers_here({"nthreads": 2}) as address, pytest.raises(RuntimeError, match="2 threads would mix up runs"):
        sweep.train_all(seeds(0), data, CPU, address)
    monkeypatch.setattr(runs, "device", lambda _: CPU)
    with workers_here({}, {"nthreads": 2, "resources": {"GPU": 1}}) as address:
        assert len(sweep.train_all(seeds(0, 1), data, GPU, address)) == 2


def test_a_run_for_a_gpu_is_refused_by_a_cluster_without_and_does_not_wait(data, two_workers, monkeypatch):
    monkeypatch.setattr(sweep, "PATIENCE", 1)
    with pytest.raises(ValueError, match=r"2 workers, none to train on: start `dask worker` with --resources GPU=1"):
        sweep.train_all(seeds(0), data, GPU, two_workers)


def test_a_cluster_without_workers_is_refused(data, monkeypatch):
    monkeypatch.setattr(sweep, "PATIENCE", 1)
    with (
        workers_here() as address,
        pytest.raises(ValueError, match=r"0 workers, none to train on: start `dask worker`"),
    ):
        sweep.train_all(seeds(0), data, CPU, address)


def test_a_scheduler_that_does_not_answer_is_named(data, monkeypatch):
    monkeypatch.setattr(sweep, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in (UNANSWERED, "127.0.0.1:1", f"tcp://127.0.0.1:{silent.getsockname()[1]}", "no.such.host:80"):
            with pytest.raises(ValueError, match=f"no Dask scheduler answers at {address}: start one"):
                sweep.train_all(seeds(0), data, CPU, address)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_in_mid_run_is_a_failure(data, small_network, monkeypatch):
    leave, running = threading.Event(), threading.Event()
    monkeypatch.setattr(runs, "load_or_train", lambda *_, **__: running.set() or leave.wait(3))
    monkeypatch.setattr(sweep, "PATIENCE", 1)
    with workers_here({}) as address, ThreadPoolExecutor() as beside:
        asked = beside.submit(sweep.train_all, seeds(0, 1), data, CPU, address)
        assert running.wait(30)
        with Client(address, set_as_default=False) as client:
            client.shutdown()
        with pytest.raises(RuntimeError, match=r"\(seed = 0\) \(seed = 1\) ConnectionError: the Dask scheduler went"):
            asked.result(60)
        leave.set()


@pytest.mark.parametrize("text", ["127.0.0.1:8786", "tcp://node-7:8786", "tls://node-7:8786", "tcp://[::1]:8786"])
def test_an_address_is_taken_as_it_is(text):
    assert sweep.address(text) == text


@pytest.mark.parametrize(
    "text", ["", "node-7", "tcp://node-7", "http://node-7:8786", "node-7:x", "node-7:0", "node-7:65536", ":8786", "://"]
)
def test_what_cannot_be_an_address_is_refused(text):
    with pytest.raises(ValueError, match="host:port or tcp://host:port"):
        sweep.address(text)


def about_worker():
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "PNEUMO_NB_HOME")} | {
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }


def test_a_local_cluster_shares_gpus_and_leaves_this_process_as_it_was(home, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    with sweep.cluster(3, GPU) as address, Client(address, set_as_default=False) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert [(worker["nthreads"], worker["resources"]) for worker in workers] == [(1, {"GPU": 1})] * 3
        assert all(worker["host"] == "127.0.0.1" for worker in workers)
        found = client.run(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()))
        assert os.environ["OMP_NUM_THREADS"] == "77"
    assert sorted(gpu for gpu, _ in found.values()) == ["4", "4", "7"]
    assert not [pid for _, pid in found.values() if alive(pid)]


@pytest.mark.slow
def test_a_local_cluster_trains_to_the_bytes_of_as_many_threads_here(data, home, monkeypatch, tmp_path_factory):
    wanted, jobs = seeds(0, 1), 2
    with sweep.cluster(jobs, CPU) as address:
        there = sweep.train_all(wanted, data, CPU, address)
    other = tmp_path_factory.mktemp("sequential")
    weights = [(paths.runs(run.key) / "weights.safetensors").read_bytes() for run in there]
    monkeypatch.setenv("PNEUMO_NB_HOME", str(other))
    with threads(max(1, processes.cores() // jobs)):
        here = sweep.train_all(wanted, data, CPU)
    assert [(paths.runs(run.key) / "weights.safetensors").read_bytes() for run in here] == weights


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def as_a_user_would(home):
    """`dask scheduler` and two `dask worker`, each a process of its own; yields the address."""
    file, started = home / "scheduler.json", []
    command, local = [sys.executable, "-m", "dask"], ("--host", "127.0.0.1", "--no-dashboard")
    options = ("--nthreads", "1", "--local-directory", home / "dask", "--dashboard-address", "127.0.0.1:0")
    with (home / "dask.log").open("w") as log:
        for more in (
            ("scheduler", "--port", "0", *options[-2:], *local),
            ("worker", *options, *local),
            ("worker", *options, *local),
        ):
            one = subprocess.Popen([*command, *map(str, more), "--scheduler-file", file], stdout=log, stderr=log)
            started.append(one)
        try:
            end = time.monotonic() + 60
            while not file.is_file() and time.monotonic() < end:
                time.sleep(0.1)
            with Client(scheduler_file=file, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
                address = client.scheduler.address
            yield address
        finally:
            for one in reversed(started):
                one.terminate()
            for one in started:
                one.wait(30)


@pytest.mark.slow
def test_two_clients_and_a_killed_worker_on_a_cluster_that_a_user_started(data, as_a_user_would):
    wanted = [settings(scale_factor=n, seed=seed) for n in (1, 5) for seed in (0, 1)]
    written = {runs.key(one, data.hash): set() for one in wanted}
    with ThreadPoolExecutor() as beside:
        asked = [beside.submit(sweep.train_all, wanted, data, CPU, as_a_user_would) for _ in range(2)]
        while not all(one.done() for one in asked):
            for key, times in written.items():
                times |= {file.stat().st_mtime_ns for file in paths.runs(key).glob("record.json")}
            time.sleep(0.01)
    first, second = (one.result() for one in asked)
    with Client(as_a_user_would, set_as_default=False) as client:
        assert not client.run_on_scheduler(lambda: "torch" in sys.modules)  # it would be busy importing
    assert first == second and [run.key for run in first] == list(written)
    assert {len(times) for times in written.values()} == {1}  # no record was written a second time

    long = settings(epochs=8)
    checkpoint = paths.runs(runs.key(long, data.hash)) / "checkpoint.pt"
    with ThreadPoolExecutor() as beside, Client(as_a_user_would, set_as_default=False) as client:
        asked = beside.submit(sweep.train_all, [long], data, CPU, as_a_user_would)
        while not checkpoint.is_file():
            time.sleep(0.05)
        (busy,) = [worker for worker, tasks in client.processing().items() if tasks]
        os.kill(client.run(os.getpid, workers=[busy])[busy], signal.SIGKILL)
        (run,) = asked.result(120)
    assert run.settings == long and len(run.history) == 8
