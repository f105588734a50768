"""Whether reduced precision ends at the same test metrics: runs of many seeds in float32 beside runs in bf16 or TF32.

    python -m tests.benchmarks.bench_precision                              two CPU cores, minutes
    python -m tests.benchmarks.bench_precision --precisions tf32 bf16 --device cuda

Each seed is trained once in each precision, from the same weights in the same order, and stored as any run is. Told
are the mean of each metric on the testing set, its spread (standard deviation) over the float32 seeds, and the mean
difference from float32, whose 95 % interval (paired t) tells how much these few seeds leave open. `within` is whether
the mean difference is smaller than the spread. Writes outputs/bench/precision-DEVICE.csv.
"""

import argparse

import pandas as pd
from scipy import stats

from pneumo_nb import paths, prepare
from pneumo_nb.settings import PhantomSettings, PrepareSettings, TrainSettings
from pneumo_nb.train import dataset, runs, sweep
from tests.benchmarks.bench_training import NETWORKS, SIZES

METRICS = ("test_auc", "test_accuracy", "test_recall", "test_loss")


def row(network: str, precision: str, metric: str, values: pd.Series, float32: pd.Series) -> dict:
    """What is told of one metric, each value of one seed."""
    difference = values - float32
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    return {
        "network": network,
        "precision": precision,
        "metric": metric.removeprefix("test_"),
        "mean": values.mean(),
        "float32": float32.mean(),
        "spread": float32.std(),
        "difference": difference.mean(),
        "low": low,
        "high": high,
        "within": abs(difference.mean()) < float32.std(),
    }


def main() -> None:
    """Read the command line, train what is not trained yet, print and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--precisions", nargs="+", choices=["bf16", "tf32"], default=["bf16"])
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=["DenseNet53"], metavar="NETWORK")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--epochs", type=int, default=25)
    options.add_argument("--radiographs", type=int, default=200)
    chosen = options.parse_args()
    size = SIZES["smoke"].copy()
    width, height = size.pop("width"), size.pop("height")
    name = f"phantom-bench-{width}-{chosen.radiographs}"
    patients = {"patients": chosen.radiographs, "positives": chosen.radiographs // 4}
    prepare.phantom(name, PhantomSettings.of(**patients, width=width, height=height), PrepareSettings.of(split="paper"))
    precisions = ["float32", *chosen.precisions]
    base = TrainSettings.of(**size, epochs=chosen.epochs, learning_rate=1e-3, normalisation="dataset")
    data = dataset.load(name, base)
    columns = {
        (network, precision): base.varied(**NETWORKS[network], precision=precision)
        for network in chosen.networks
        for precision in precisions
    }
    trained = sweep.train_columns(columns, range(chosen.seeds), data, runs.device(chosen.device))
    found = {
        column: pd.DataFrame([dict(run.history.iloc[-1]) | {"test_auc": run.record["test_auc"]} for run in of_seeds])
        for column, of_seeds in trained.items()
    }
    frame = pd.DataFrame(
        row(network, precision, metric, found[network, precision][metric], found[network, "float32"][metric])
        for network in chosen.networks
        for precision in chosen.precisions
        for metric in METRICS
    )
    with paths.whole(paths.root() / "outputs" / "bench" / f"precision-{chosen.device}.csv") as file:
        frame.to_csv(file, index=False)
    tested = len(data.part("test"))
    print(f"{chosen.seeds} seeds, {chosen.epochs} epochs, {tested} testing images, {size['image_size']} pixels a side")
    print(frame.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
