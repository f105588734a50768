"""Stages: the rule of GBZ 70, a network that stages, and how well stages are found.

In: a dataset whose manifest has a column `stage`. Out: stages 0 to 4, (images,), as integers, -1 where unknown.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn

from pneumo_nb.settings import TrainSettings, refuse
from pneumo_nb.train import loop, machine, models
from pneumo_nb.train.dataset import Dataset, Feed

NAMES = ("0", "I", "II", "III", "IV")
LARGE_MM = 20.0  # length of a large opacity that makes stage III by itself


def by_rule(profusion: np.ndarray, largest_mm: np.ndarray, overall: str = "zones") -> np.ndarray:
    """Stages (images,) by GBZ 70-2015, from the profusions (images, 6) and the length of the largest opacity, or 0.

    What "overall profusion" means could not be read. `zones`: a zone counts if it has that profusion itself. `highest`:
    the highest zone gives the profusion, and every zone with some counts. A ValueError names another reading.
    """
    grades, largest = np.asarray(profusion), np.asarray(largest_mm, dtype=float)
    refuse(overall not in ("zones", "highest"), f"overall = {overall!r}: zones or highest is right")

    def zones_of(grade: int) -> np.ndarray:
        own = (grades >= grade).sum(axis=1)
        return own if overall == "zones" else np.where(own > 0, (grades >= 1).sum(axis=1), 0)

    third = (largest >= LARGE_MM) | ((zones_of(3) > 4) & (largest > 10))  # above 10 mm it is "large"
    return np.select([third, (zones_of(2) > 4) | (zones_of(3) >= 4), zones_of(1) >= 2], [3, 2, 1], 0)


def known(manifest: pd.DataFrame) -> np.ndarray:
    """The stages that a manifest tells; a radiograph labelled 0 that has none is stage 0. All -1 if no positive has."""
    told = manifest.get("stage", pd.Series("", manifest.index)).astype(str).str.rstrip("+")
    positive = manifest["label"].astype(int) == 1
    stages = told.map({name: place % len(NAMES) for place, name in enumerate((*NAMES, *"01234"))})
    stages = stages.where(told.ne("") | positive, 0).fillna(-1).astype(int).to_numpy()
    return stages if (stages[positive] >= 0).any() else np.full_like(stages, -1)


def trained(
    settings: TrainSettings, data: Dataset, stages: np.ndarray, device, loss: Callable, call: Callable, outputs: int
) -> np.ndarray:
    """Stages (images,) that a network calls; it is the settings' network, but for its outputs, trained as they say.

    `loss` is of logits (batch, outputs) and stages (batch,); `call` makes stages of logits. Radiographs of unknown
    stage are not trained on; Eq. 7's weights are for two classes, and play no part.
    """
    training = np.intersect1d(data.part("train"), np.flatnonzero(stages >= 0))
    feed = Feed(data, device, settings.channels, settings.normalisation)
    target = torch.tensor(stages, device=device)
    with machine.arithmetic(settings), torch.random.fork_rng(devices=[]), machine.own_cores(device.type == "cpu"):
        net = machine.in_place(models.build(**settings.architecture(), seed=settings.seed))
        last = "classifier" if settings.model == "densenet" else "fc"
        torch.manual_seed(settings.seed)  # of the outputs and of dropout
        setattr(net, last, nn.Linear(getattr(net, last).in_features, outputs))
        optimiser = machine.adam(net.to(device), settings, device)
        for epoch in range(1, settings.epochs + 1):
            net.train()
            flips = np.random.default_rng([settings.seed, epoch, 1]).random(len(stages)) < settings.flip
            for batch in loop.batches(stages[training], settings.varied(loss="label"), epoch):
                places = training[batch]
                optimiser.zero_grad()
                loss(net(feed.images(places, flips[places])), target[places]).backward()
                optimiser.step()
        loop.take_statistics(settings, net, feed, training)
        return call(loop.logits(net, feed, np.arange(len(stages)))).numpy()
