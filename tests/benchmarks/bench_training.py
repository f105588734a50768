"""How fast training is beside the reference recipe, on the same radiographs, in the same run.

    python -m tests.benchmarks.bench_training --at smoke            two CPU cores, minutes
    python -m tests.benchmarks.bench_training --at smoke --set in_memory_mib=0       the same from a file, not memory
    python -m tests.benchmarks.bench_training --at paper --device cuda --set precision=tf32

Each network is trained as `pneumo_nb.train.loop.fit` does it and by `reference.py`, each in a process of its own, which
take turns epoch by epoch; medians of the epochs are told. An epoch is one pass over the training set and one evaluation
of the testing set. `floor s` is what an epoch's arithmetic and bytes take at the rates that this run measures on this
machine with matrix products, convolutions and copies, the larger of the two. Writes outputs/bench/training-NAME.csv
and .md.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from pneumo_nb import paths, prepare, processes
from pneumo_nb.settings import PhantomSettings, PrepareSettings, TrainSettings
from pneumo_nb.train import dataset, loop, machine, models, runs
from tests.benchmarks import reference

NETWORKS = {
    "ResNet34": {"model": "resnet34"},
    "DenseNet40": {"model": "densenet", "depth": 40, "blocks": 3},
    "DenseNet64": {"model": "densenet", "depth": 64, "blocks": 3},
    "DenseNet53": {"model": "densenet", "depth": 53, "blocks": 4},
    "DenseNet53 without bottleneck": {"model": "densenet", "depth": 53, "blocks": 4, "bottleneck": False},
}
SIZES = {
    "smoke": {"image_size": 96, "batch_size": 4, "channels": 1, "stem": "7x7", "width": 512, "height": 530},
    "224": {"image_size": 224, "batch_size": 2, "channels": 3, "stem": "3x3", "width": 2776, "height": 2876},
    "paper": {"image_size": 672, "batch_size": 2, "channels": 3, "stem": "3x3", "width": 2776, "height": 2876},
}
OF_A_REFERENCE = ("depth", "blocks", "bottleneck", "growth_rate", "reduction", "stem")


class Bench(NamedTuple):
    """Two things to time: one epoch with its evaluation, and the prediction of all radiographs without gradients."""

    epoch: Callable[[], object]
    predict: Callable[[], object]


def ours(settings: TrainSettings, name: str, device: torch.device, workers: int) -> Bench:
    """This software: what `loop.fit` does in an epoch, without its start and its end."""
    data = dataset.load(name, settings)
    machine.refuse_incapable(settings, device)
    processes.keep_memory(True)
    feed = dataset.Feed(data, device, settings.channels, settings.normalisation)
    net = machine.in_place(models.build(**settings.architecture(), seed=settings.seed)).to(device)
    step = loop._step(settings, net, machine.adam(net, settings, device), feed)
    training, testing, everything = data.part("train"), data.part("test"), np.arange(len(data.labels))

    def epoch() -> None:
        with machine.arithmetic(settings):
            loop._epoch(settings, net, step, feed, training, 1, tqdm(disable=True))
            loop._evaluate(settings, net, feed, testing, "test", 1)

    def predict() -> None:
        with machine.arithmetic(settings):
            loop.predict(net, feed, everything)

    return Bench(epoch, predict)


def theirs(settings: TrainSettings, name: str, device: torch.device, workers: int) -> Bench:
    """The reference recipe, in torch's default precision: TF32 in a GPU's convolutions, float32 elsewhere."""
    manifest, _ = prepare.read_dataset(name)

    def loader(split: str) -> DataLoader:
        rows = manifest[manifest["split"] == split] if split else manifest
        files, labels = [paths.prepared(name) / file for file in rows["file"]], rows["label"].astype(int).tolist()
        flip = settings.flip if split == "train" else 0.0
        images = reference.Radiographs(files, labels, settings.image_size, settings.channels, flip)
        how = {}
        if workers:  # kept, for starting them is no part of an epoch; and started as this system does of itself
            usual = multiprocessing.get_all_start_methods()[0]
            how = {"num_workers": workers, "persistent_workers": True, "multiprocessing_context": usual}
        return DataLoader(images, settings.batch_size, shuffle=split == "train", **how)

    training, testing, everything = loader("train"), loader("test"), loader("")
    densenet = {field: getattr(settings, field) for field in OF_A_REFERENCE} if settings.model == "densenet" else {}
    net = reference.network(settings.model, settings.channels, **densenet).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, foreach=False, fused=False)

    def epoch() -> None:
        reference.train_epoch(net, optimiser, training, device, settings.scale_factor)
        reference.evaluate(net, testing, device)

    return Bench(epoch, lambda: reference.evaluate(net, everything, device))


def work(make, settings: TrainSettings, name: str, device: torch.device, workers: int, line) -> None:
    """In a process of its own: do what is asked for, and answer with the seconds, the CPU seconds and the memory."""
    idle = machine.peak_mib(torch.device("cpu"))
    bench = make(settings, name, device, workers)
    with suppress(EOFError):  # nothing more is asked
        while True:
            task = getattr(bench, line.recv())
            start, cpu = time.perf_counter(), time.process_time()
            task()  # ends with numbers on the CPU, so that a GPU has finished too
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            line.send((seconds, cpu, machine.peak_mib(device) - (idle if device.type == "cpu" else 0)))


def take_turns(settings: TrainSettings, name: str, device: torch.device, workers: int, repeats: int) -> list[dict]:
    """Medians of this software and of the reference, in this order; the first epoch of each warms up."""
    context = multiprocessing.get_context("spawn")
    sides = []
    for make in (ours, theirs):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(make, settings, name, device, workers, there))
        process.start()
        there.close()  # so that a side that dies ends the wait
        sides.append((process, here))

    def ask(line, task: str) -> tuple[float, float, float]:
        line.send(task)
        return line.recv()

    times = {(side, task): [] for side in range(2) for task in ("epoch", "predict")}
    try:
        for task in ("epoch", "predict"):
            for repeat in range(repeats + 1):
                for side, (_, line) in enumerate(sides):
                    answer = ask(line, task)
                    if repeat:
                        times[side, task].append(answer)
    finally:
        for process, line in sides:
            line.close()
            process.join()
    found = []
    for side in range(2):
        epochs, predictions = times[side, "epoch"], times[side, "predict"]
        found.append(
            {
                "seconds": statistics.median(seconds for seconds, _, _ in epochs),
                "cpu": statistics.median(cpu for _, cpu, _ in epochs),
                "peak": max(peak for _, _, peak in epochs),
                "predict": statistics.median(seconds for seconds, _, _ in predictions),
            }
        )
    return found


def rates(device: torch.device) -> tuple[float, float]:
    """Operations a second in a matrix product or a convolution, whichever is faster, and bytes a second in a copy."""
    side, numbers = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)  # enough to keep the device busy
    square, image = torch.rand(side, side, device=device), torch.rand(8, 64, 112, 112, device=device)
    kernel, large = torch.rand(64, 64, 3, 3, device=device), torch.rand(numbers, device=device)
    target = torch.empty_like(large)
    product = 2 * side**3 / _best(lambda: square @ square, device)
    convolution = 2 * 8 * 112**2 * kernel.numel() / _best(lambda: torch.conv2d(image, kernel, padding=1), device)
    return max(product, convolution), 2 * large.nbytes / _best(lambda: target.copy_(large), device)


def _best(call, device: torch.device) -> float:
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def floor(settings: TrainSettings, trained: int, tested: int, rate: float, bandwidth: float) -> float:
    """Seconds that an epoch cannot go below: its arithmetic, or its bytes, whichever takes longer.

    A convolution costs its products forward and twice that backward. With all that lies between two convolutions done
    on the way, it still reads its input and writes its output forward; backward it reads both and the output's gradient
    in place of the output, and writes the input's gradient. A step reads the weights three times, writes their
    gradients, and Adam reads four numbers for each weight and writes three.
    """
    with torch.device("meta"):
        rows = models.layer_table(models.build(**settings.architecture()), settings.image_size, settings.channels)
    products = reads = writes = 0
    for row in rows:
        channels, *side = row["output"]
        pixels = int(np.prod(side))
        products += row["parameters"] * max(1, pixels)
        writes += channels * max(1, pixels)
        if row["kind"] == "conv":
            reads += row["parameters"] // (row["kernel"] ** 2 * channels) * pixels * row["stride"] ** 2
    weights = sum(row["parameters"] for row in rows)
    steps = -(-trained // settings.batch_size)
    arithmetic = 2 * products * (3 * trained + tested)
    bytes_ = 4 * ((3 * reads + 2 * writes) * trained + (reads + writes) * tested + (4 + 7) * weights * steps)
    return max(arithmetic / rate, bytes_ / bandwidth)


def row(name: str, trained: int, images: int, mine: dict, reference: dict, least: float) -> dict:
    """What is told of one network."""
    return {
        "network": name,
        "images/s": trained / mine["seconds"],
        "epoch s": mine["seconds"],
        "reference s": reference["seconds"],
        "ratio": reference["seconds"] / mine["seconds"],
        "CPU s ratio": reference["cpu"] / mine["cpu"],
        "peak MiB": mine["peak"],
        "reference MiB": reference["peak"],
        "memory ratio": mine["peak"] / reference["peak"],
        "predicted/s": images / mine["predict"],
        "prediction ratio": reference["predict"] / mine["predict"],
        "floor s": least,
        "epoch / floor": mine["seconds"] / least,
    }


def main() -> None:
    """Read the command line, take the measurements, print and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--at", choices=SIZES, default="smoke", help="image size, batch size, stem and channels")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    options.add_argument("--radiographs", type=int, help="of the phantom (default: 60; at 224 on a CPU: 20)")
    options.add_argument("--epochs", type=int, default=3, help="measured, after one to warm up")
    options.add_argument("--workers", type=int, help="of the reference's DataLoader (default: 0 on a CPU, else 4)")
    options.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="such as compile=true; ours only")
    chosen = options.parse_args()
    device = runs.device(chosen.device)
    workers = (0 if device.type == "cpu" else 4) if chosen.workers is None else chosen.workers
    patients = chosen.radiographs or (20 if chosen.at == "224" and device.type == "cpu" else 60)
    size = SIZES[chosen.at].copy()
    width, height = size.pop("width"), size.pop("height")
    name = f"phantom-bench-{width}-{patients}"
    phantom = PhantomSettings.of(patients=patients, positives=patients // 4, width=width, height=height)
    prepare.phantom(name, phantom, PrepareSettings.of(split="paper"))
    counts = prepare.read_dataset(name)[0]["split"].value_counts()
    choices = dict(pair.split("=") for pair in chosen.set)
    with machine.arithmetic(TrainSettings.of(**choices)):
        rate, bandwidth = rates(device)
    about = [
        f"{torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor() or platform.machine()}",
        f"{torch.get_num_threads()} threads, torch {torch.__version__}",
        f"{rate / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s measured",
        f"{size['image_size']} x {size['image_size']}, batch {size['batch_size']}, {counts['train']} training images",
        "settings: " + (", ".join(chosen.set) or "all by default"),
    ]
    print("; ".join(about), flush=True)
    table = []
    for network in chosen.networks:
        settings = TrainSettings.of(**(NETWORKS[network] | size | choices))
        mine, other = take_turns(settings, name, device, workers, chosen.epochs)
        least = floor(settings, counts["train"], counts["test"], rate, bandwidth)
        table.append(row(network, counts["train"], counts.sum(), mine, other, least))
        print(*("  ".join(cells) for cells in _cells(pd.DataFrame(table[-1:]))[2:]), flush=True)
    frame = pd.DataFrame(table)
    folder = paths.root() / "outputs" / "bench"
    told = "-".join(["training", chosen.at, device.type, *chosen.set]).replace("=", "-")
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in _cells(frame)]
    with paths.whole(folder / f"{told}.csv") as file:
        frame.to_csv(file, index=False)
    with paths.whole(folder / f"{told}.md") as file:
        file.write_text("\n".join([*about, "", *lines]) + "\n")
    print("\n".join(lines))
    print(f"written: {folder / told}.csv and .md")


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    """Rows of a Markdown table: names, a rule, and numbers with three digits."""
    numbers = [
        [cells[0], *(f"{cell:.3g}" if cell < 1000 else f"{cell:.0f}" for cell in cells[1:])] for cells in frame.values
    ]
    return [list(frame.columns), ["---"] * len(frame.columns), *numbers]


if __name__ == "__main__":
    main()
