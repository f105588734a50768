"""How much slower training gets beside a busy process, and what helps.

    python -m tests.benchmarks.bench_neighbour                              two quiet CPU cores, five minutes
    python -m tests.benchmarks.bench_neighbour --ways free own free/2000 own/10000

Threads wait for each other at the end of every layer. `own` is what training does, each of torch's threads on a core of
its own (`machine.own_cores`), `free` leaves them where the system puts them; a number behind is GOMP_SPINCOUNT, how
long a thread spins before it sleeps. For each way a process of its own takes training steps on noise, quiet and beside
a process that keeps one core busy, in turns; medians are told. `loss` is what a way costs when quiet, beside the first
way; `factor` is what the neighbour costs. The machine must be quiet otherwise.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import pandas as pd

NETWORKS = {"DenseNet53": {"model": "densenet", "stem": "7x7"}, "ResNet34": {"model": "resnet34"}}


def steps(way: str, network: str, image_size: int, batch_size: int, seconds: float) -> float:
    """Images a second that this process trains on: steps of `loop.fit` for so many seconds, after one to warm up."""
    import numpy as np
    import torch

    from pneumo_nb import processes
    from pneumo_nb.settings import TrainSettings
    from pneumo_nb.train import dataset, loop, machine, models

    device = torch.device("cpu")
    settings = TrainSettings.of(**NETWORKS[network], image_size=image_size, batch_size=batch_size, channels=1)
    noise = np.random.default_rng(0).integers(0, 256, (batch_size, 1, image_size, image_size), dtype=np.uint8)
    labels = torch.arange(batch_size) % 2
    data = dataset.Dataset("noise", "", pd.DataFrame(), torch.from_numpy(noise), labels, 255, image_size, "stretch")
    processes.keep_memory(True)
    net = machine.in_place(models.build(**settings.architecture())).train()
    step = loop._step(settings, net, machine.adam(net, settings, device), dataset.Feed(data, device, 1, "none"))
    positions, flips = torch.arange(batch_size), torch.zeros(batch_size, dtype=torch.bool)
    with machine.own_cores() if way == "own" else nullcontext():
        step(positions, flips)
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step(positions, flips)
            done += batch_size
        return done / (time.perf_counter() - start)


def spin() -> None:
    """What a neighbour does: keep one core busy."""
    while True:
        pass


def rate(way: str, *arguments: object) -> float:
    """Images a second of a process that trains in this way."""
    name, _, spins = way.partition("/")
    environment = os.environ | ({"GOMP_SPINCOUNT": spins} if spins else {})
    code = "import sys; from tests.benchmarks import bench_neighbour as b; a = sys.argv;"
    code += " print(b.steps(a[1], a[2], int(a[3]), int(a[4]), float(a[5])))"
    command = [sys.executable, "-c", code, name, *map(str, arguments)]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Read the command line, take the measurements, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ways", nargs="+", default=["free", "own"], help="free, own, free/COUNT or own/COUNT")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--image-size", type=int, default=96)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--seconds", type=float, default=8, help="of each measurement, without start-up")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    size = chosen.image_size, chosen.batch_size, chosen.seconds
    print(f"load before: {os.getloadavg()[0]:.2f}", flush=True)
    context, table = multiprocessing.get_context("spawn"), []
    for network in chosen.networks:
        met = {(way, busy): [] for way in chosen.ways for busy in (False, True)}
        for _ in range(chosen.repeats):
            for way, busy in met:
                neighbour = context.Process(target=spin, daemon=True)
                if busy:
                    neighbour.start()
                try:
                    met[way, busy].append(rate(way, network, *size))
                finally:
                    if busy:
                        neighbour.kill()
        first = statistics.median(met[chosen.ways[0], False])
        for way in chosen.ways:
            quiet, beside = (statistics.median(met[way, busy]) for busy in (False, True))
            row = {"network": network, "way": way, "quiet images/s": quiet, "beside images/s": beside}
            table.append(row | {"loss": 1 - quiet / first, "factor": quiet / beside})
            print(pd.DataFrame(table[-1:]).to_string(index=False, header=len(table) == 1), flush=True)


if __name__ == "__main__":
    main()
