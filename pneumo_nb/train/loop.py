"""The one training loop: Section 3.1's recipe, with everything that it leaves open taken from the settings."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pneumo_nb import processes
from pneumo_nb.metrics import Counts, choose_threshold
from pneumo_nb.settings import TrainSettings, refuse
from pneumo_nb.train import checkpoints, losses, machine, models
from pneumo_nb.train.dataset import Dataset, Feed

BETWEEN_UPDATES = 3  # seconds of a bar: each is three messages, and a notebook's tester has room for 2000 of a cell


@dataclass(frozen=True)
class Trained:
    """What training leaves: weights of the epoch reported, history of all epochs, probabilities of all images."""

    weights: dict[str, Tensor]
    history: pd.DataFrame
    probabilities: np.ndarray  # (images,), of pneumoconiosis, in manifest order
    epoch_reported: int  # 1-based
    threshold: float
    seconds: float
    peak_memory_mib: float  # allocated on the GPU; on a CPU, of the whole process so far


def fit(
    settings: TrainSettings, data: Dataset, device: torch.device, checkpoint: Path | None = None, progress: bool = True
) -> Trained:
    """Train one network and evaluate it after each epoch.

    Finished epochs are saved at `checkpoint`; one found there is continued, to the weights of an undisturbed run. A
    ValueError says what the data or the settings lack, or how the checkpoint does not belong to them; a MemoryError
    what to lower; a FloatingPointError names the epoch and step at which the loss stopped being a number.
    """
    data.refuse_others(settings)
    _refuse_one_sided(settings, data)
    machine.refuse_incapable(settings, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    feed = Feed(data, device, settings.channels, settings.normalisation)
    net = machine.in_place(_network(settings)).to(device)
    optimiser = machine.adam(net, settings, device)
    identity = {"dataset": data.hash} | settings.model_dump()
    done = checkpoints.resume(checkpoint, identity, net, optimiser) or {"history": [], "weights": {}, "seconds": 0.0}
    training, step = data.part("train"), _step(settings, net, optimiser, feed)
    evaluated = machine.at_once(settings.image_size, device)  # `logits` fills up what is less
    room = machine.refuse_too_large(settings, net, device, min(settings.batch_size, len(training)), evaluated)
    processes.keep_memory(room > 3)  # as much as it may come to
    with (
        machine.shortage_named(settings, device),
        machine.arithmetic(settings),
        _bar(settings, len(training), len(done["history"]), progress) as bar,  # before own_cores: it starts a thread
        machine.own_cores(device.type == "cpu" and not settings.compile),  # compiling starts processes
    ):
        for epoch in range(len(done["history"]) + 1, settings.epochs + 1):
            start = time.perf_counter()
            row = {"epoch": epoch} | _epoch(settings, net, step, feed, training, epoch, bar)
            take_statistics(settings, net, feed, training)
            for split in ("validation", "test"):
                if len(data.part(split)):
                    row |= _evaluate(settings, net, feed, data.part(split), split, epoch)
            done["history"].append(row)
            if _reported(settings, done["history"]) == epoch:
                done["weights"] = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
            done["seconds"] += time.perf_counter() - start
            bar.set_postfix(loss=f"{row['train_loss']:.3f}", test_recall=f"{row['test_recall']:.3f}")
            if checkpoint and (epoch % settings.checkpoint_every == 0 or epoch == settings.epochs):
                checkpoints.save(checkpoint, identity, done, net, optimiser)
        net.load_state_dict(done["weights"])
        probabilities = predict(net, feed, np.arange(len(data.labels)))
    history, reported = pd.DataFrame(done["history"]), _reported(settings, done["history"])
    threshold, peak = _threshold(settings, data, probabilities), machine.peak_mib(device)
    return Trained(done["weights"], history, probabilities, reported, threshold, done["seconds"], peak)


def predict(net: nn.Module, feed: Feed, positions: np.ndarray) -> np.ndarray:
    """Probability of pneumoconiosis, (images,), of the radiographs at these positions of the manifest."""
    return logits(net, feed, positions).softmax(dim=1)[:, 1].numpy()


def take_statistics(settings: TrainSettings, net: nn.Module, feed: Feed, training: np.ndarray) -> None:
    """Batch normalisation's means and variances over the training set, of the weights as they are, if settings say so.

    Means over batches like those of training, mixed whatever the order of the files, on any device: Ioffe and Szegedy
    2015, Algorithm 2. Torch's running ones are of the last few batches, and of weights since changed.
    """
    norms = [module for module in net.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    if settings.norm_statistics == "running" or not norms:
        return
    momentum = norms[0].momentum  # the same everywhere
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # every batch counts the same
    with torch.inference_mode():
        for some in batches(feed.labels(training).cpu().numpy(), settings.varied(loss="label"), epoch=0):
            net(feed.images(training[some]))
    for norm in norms:
        norm.momentum = momentum


def batches(labels: np.ndarray, settings: TrainSettings, epoch: int) -> list[np.ndarray]:
    """The training set of one epoch, shuffled by (seed, epoch) and cut: positions within `labels`, (images,).

    With the reading `sampler` of the loss as many are drawn with replacement, positives n times as often as negatives.
    A lone last image joins the batch before it, since batch normalisation cannot normalise a single value.
    """
    random = np.random.default_rng([settings.seed, epoch, 0])
    order = random.permutation(len(labels))
    if settings.loss == "sampler":
        weight = np.where(labels == 1, settings.scale_factor, 1.0)
        order = random.choice(len(labels), len(labels), p=weight / weight.sum())
    cuts = list(range(settings.batch_size, len(order), settings.batch_size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def _bar(settings: TrainSettings, images: int, epochs_done: int, shown: bool) -> tqdm:
    name, done = f"{settings.model}, n = {settings.scale_factor:g}, seed {settings.seed}", epochs_done * images
    how = {"unit": "image", "disable": not shown, "leave": False, "mininterval": BETWEEN_UPDATES}
    return tqdm(desc=name, total=settings.epochs * images, initial=done, **how)


def _step(settings, net, optimiser, feed) -> Callable[..., tuple[Tensor, Tensor]]:
    """One step of Adam: positions and flips of a batch, on the device -> its loss and logits, on the device."""
    forward = machine.forward(net, settings, feed.device)

    def step(positions: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        logits = forward(feed.images(positions, flips))
        loss = losses.balanced_loss(logits, feed.labels(positions), settings.loss, settings.scale_factor)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach(), logits.detach()

    return machine.as_cuda_graph(step, settings.batch_size) if feed.on_gpu else step


def _epoch(settings, net, step, feed, training, epoch, bar) -> dict[str, float]:
    """One pass over the training set; loss and metrics are those met on the way, as in Figure 7."""
    net.train()
    torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropout draws from here, so that an epoch can be repeated
    flips = np.random.default_rng([settings.seed, epoch, 1]).random(len(training)) < settings.flip
    cut = batches(feed.labels(training).cpu().numpy(), settings, epoch)
    order, sizes = np.concatenate(cut), [len(batch) for batch in cut]
    positions, flips = (torch.from_numpy(values[order]).to(feed.device) for values in (training, flips))
    met = []
    for batch, flipped in zip(positions.split(sizes), flips.split(sizes), strict=True):
        met.append(step(batch, flipped))
        bar.update(len(batch))
    step_losses, step_logits = zip(*met, strict=True)
    values = torch.stack(step_losses).cpu()
    for number, value in enumerate(values.tolist(), start=1):
        _refuse_not_a_number(value, f"at epoch {epoch}, step {number}", settings)
    return _row("train", torch.cat(step_logits).cpu(), feed.labels(positions).cpu(), values.mean().item(), settings)


def _refuse_not_a_number(loss: float, where: str, settings: TrainSettings) -> None:
    rate = f"try a learning rate below {settings.learning_rate:g}"
    refuse(not np.isfinite(loss), f"the loss is not a number {where}: {rate}", FloatingPointError)


def _evaluate(settings, net, feed, positions, split, epoch) -> dict[str, float]:
    found, labels = logits(net, feed, positions), feed.labels(positions).cpu()
    loss = losses.balanced_loss(found, labels, settings.loss, settings.scale_factor).item()
    _refuse_not_a_number(loss, f"on the {split} part after epoch {epoch}", settings)
    return _row(split, found, labels, loss, settings)


def logits(net: nn.Module, feed: Feed, positions: np.ndarray) -> Tensor:
    """What the network says, (images, outputs) on the CPU, of the radiographs at these positions of the manifest."""
    size = machine.at_once(feed.image_size, feed.device)
    whole = np.resize(positions, -(-len(positions) // size) * size)  # a radiograph has the same bits in any batch
    net.eval()
    with torch.inference_mode():
        return torch.cat([net(feed.images(at)) for at in torch.from_numpy(whole).split(size)])[: len(positions)].cpu()


def _row(split: str, logits: Tensor, labels: Tensor, loss: float, settings: TrainSettings) -> dict[str, float]:
    """One split's share of a history row; while a threshold rule waits for the last epoch, calls are made at 0.5."""
    threshold = 0.5 if isinstance(settings.threshold, str) else settings.threshold
    counts = Counts.of(labels.numpy(), logits.softmax(dim=1)[:, 1].numpy() >= threshold)
    return {f"{split}_loss": loss} | {f"{split}_{name}": value for name, value in counts.row().items()}


def _reported(settings: TrainSettings, history: list[dict]) -> int:
    """The epoch (1-based) whose weights count: the last, or the first of the best by accuracy."""
    if settings.epoch_reported == "last":
        return settings.epochs
    split = settings.epoch_reported.removeprefix("best_")
    return 1 + int(np.argmax([row[f"{split}_accuracy"] for row in history]))


def _threshold(settings: TrainSettings, data: Dataset, probabilities: np.ndarray) -> float:
    if not isinstance(settings.threshold, str):
        return settings.threshold
    chosen_on = data.part("validation")
    return choose_threshold(data.labels.numpy()[chosen_on], probabilities[chosen_on], settings.threshold)


def _refuse_one_sided(settings: TrainSettings, data: Dataset) -> None:
    """A ValueError unless training set and testing set hold both classes, and the validation part what it must."""
    parts = {"train": "training set", "test": "testing set"}
    if isinstance(settings.threshold, str):
        parts["validation"] = f"validation part, on which threshold = {settings.threshold!r} is chosen,"
    for split, name in parts.items():
        labels = data.labels.numpy()[data.part(split)]
        found = f"{sum(labels == 1)} positive and {sum(labels == 0)} negative radiographs"
        refuse(len(set(labels)) < 2, f"the {name} of dataset {data.name!r} has {found}; both classes are needed")
    if settings.epoch_reported == "best_validation" and not len(data.part("validation")):
        raise ValueError(f"best_validation needs a validation part: prepare {data.name!r} with validation_fraction")


def _network(settings: TrainSettings) -> nn.Module:
    net = models.build(**settings.architecture(), seed=settings.seed)
    if settings.initial_weights != "scratch":
        path = Path(settings.initial_weights)
        refuse(not path.is_file(), f"initial_weights = {path.name!r} is not a file; name a safetensors file or scratch")
        checkpoints.load_weights(net, path, f"initial_weights = {path.name!r}", settings.model)
    return net
