"""Stages: the rule of GBZ 70, a loss that knows their order, and how well stages are found.

In: a dataset whose manifest has a column `stage`. Out: stages 0 to 3, (images,), as integers, -1 where unknown, and
how they compare.
"""

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from pneumo_nb.metrics import wilson
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import dataset, loop, machine, models

NAMES = ("0", "I", "II", "III", "IV")
RULE = {  # GBZ 70-2015, in our words
    "I": "profusion 1 in at least 2 zones",
    "II": "profusion 2 in more than 4 zones, or 3 in at least 4",
    "III": "a large opacity from 20 x 10 mm on, or profusion 3 in more than 4 zones with aggregation or any large one",
}
LARGE_MM = 20.0  # length of a large opacity that makes stage III by itself


def by_rule(profusion: np.ndarray, largest_mm: np.ndarray, overall: str = "zones", aggregated=False) -> np.ndarray:
    """Stages (images,) by RULE, from the profusions (images, 6) and the length of the largest opacity, 0 for none.

    What "overall profusion" means could not be read. `zones`: a zone counts if it has that profusion itself. `highest`:
    the highest zone gives the profusion, and every zone with some counts. A ValueError names another reading.
    """
    grades, largest = np.asarray(profusion), np.asarray(largest_mm, dtype=float)
    if overall not in ("zones", "highest"):
        raise ValueError(f"overall = {overall!r}: zones or highest is right")

    def zones_of(grade: int) -> np.ndarray:
        own = (grades >= grade).sum(axis=1)
        return own if overall == "zones" else np.where(own > 0, (grades >= 1).sum(axis=1), 0)

    third = (largest >= LARGE_MM) | ((zones_of(3) > 4) & (aggregated | (largest > 10)))  # above 10 mm it is "large"
    return np.select([third, (zones_of(2) > 4) | (zones_of(3) >= 4), zones_of(1) >= 2], [3, 2, 1], 0)


def known(manifest: pd.DataFrame) -> np.ndarray:
    """The stages that a manifest tells; a radiograph labelled 0 that has none is stage 0. All -1 if no positive has."""
    told = manifest.get("stage", pd.Series("", manifest.index)).astype(str).str.rstrip("+")
    positive = manifest["label"].astype(int) == 1
    stages = told.map({name: place % len(NAMES) for place, name in enumerate((*NAMES, *"01234"))})
    stages = stages.where(told.ne("") | positive, 0).fillna(-1).astype(int).to_numpy()
    return stages if (stages[positive] >= 0).any() else np.full_like(stages, -1)


def corn(logits: Tensor, stages: Tensor) -> Tensor:
    """Loss of (batch, K - 1) logits on stages (batch,) of 0 to K - 1, a scalar (Shi et al. 2023, arXiv 2111.08851).

    Logit k answers "beyond stage k?", and is asked only where the stage is at least k: P(beyond k) is a product.
    """
    total, asked = logits.new_zeros(()), 0
    for k in range(logits.shape[1]):
        reached = stages >= k
        beyond = (stages[reached] > k).to(logits.dtype)
        total = total + functional.binary_cross_entropy_with_logits(logits[reached, k], beyond, reduction="sum")
        asked += int(reached.sum())
    return total / max(asked, 1)


def corn_stages(logits: Tensor) -> Tensor:
    """(batch, K - 1) logits -> stages (batch,): how many stages are probably (above one half) passed."""
    return (logits.sigmoid().cumprod(dim=1) > 0.5).sum(dim=1)


LOSSES = {  # the loss, the stages that it calls, and how many outputs fewer than stages it needs
    "cross entropy": (functional.cross_entropy, lambda logits: logits.argmax(dim=1), 0),
    "CORN": (corn, corn_stages, 1),
}


def trained(settings: TrainSettings, data: dataset.Dataset, stages: np.ndarray, loss: str, device) -> np.ndarray:
    """Stages (images,) that a network calls; it is the settings' network, but for its outputs, trained as they say.

    Radiographs of unknown stage are not trained on; Eq. 7's weights are for two classes, and play no part.
    """
    measure, call, fewer = LOSSES[loss]
    training = np.intersect1d(data.part("train"), np.flatnonzero(stages >= 0))
    feed = dataset.Feed(data, device, settings.channels, settings.normalisation)
    target = torch.tensor(stages, device=device)
    with machine.arithmetic(settings), torch.random.fork_rng(devices=[]):
        net = models.build(**settings.architecture(), seed=settings.seed)
        last = "classifier" if settings.model == "densenet" else "fc"
        torch.manual_seed(settings.seed)  # of the outputs and of dropout
        setattr(net, last, nn.Linear(getattr(net, last).in_features, max(4, stages.max() + 1) - fewer))
        optimiser = machine.adam(net.to(device), settings, device)
        for epoch in range(1, settings.epochs + 1):
            net.train()
            flips = np.random.default_rng([settings.seed, epoch, 1]).random(len(stages)) < settings.flip
            for batch in loop.batches(stages[training], settings.varied(loss="label"), epoch):
                places = training[batch]
                optimiser.zero_grad()
                measure(net(feed.images(places, flips[places])), target[places]).backward()
                optimiser.step()
        net.eval()
        with torch.inference_mode():
            parts = np.array_split(np.arange(len(stages)), -(-len(stages) // machine.at_once(data.image_size, device)))
            return np.concatenate([call(net(feed.images(part))).cpu().numpy() for part in parts])


def profusion_read(features: np.ndarray, profusion: np.ndarray, training: np.ndarray, patients: np.ndarray):
    """The profusion of every zone, (images, zones), as logistic regression reads it off that zone's texture.

    `features` (images, zones, numbers), `profusion` (images, zones) and `patients` (images,). Only the places in
    `training` are learned from; cross-validation by patient chooses how much.
    """
    numbers, zones = features.shape[2], profusion.shape[1]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid, folds = {"logisticregression__C": (0.001, 0.01, 0.1, 1)}, GroupKFold(4)
    model = GridSearchCV(model, grid, scoring="neg_mean_absolute_error", cv=folds)
    of_zones, owners = features[training].reshape(-1, numbers), patients[training].repeat(zones)
    model.fit(of_zones, profusion[training].ravel(), groups=owners)
    return model.predict(features.reshape(-1, numbers)).reshape(-1, zones)


def confusion(stages: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    """How often a radiograph of the row's stage is called the column's; both of shape (images,)."""
    every = range(max(4, stages.max() + 1, called.max() + 1))
    names = pd.Index([NAMES[place] for place in every])
    counts = confusion_matrix(stages, called, labels=every)
    return pd.DataFrame(counts, names.rename("stage"), names.rename("called"))


def kappa(stages: np.ndarray, called: np.ndarray) -> float:
    """Cohen's kappa, weighted by squared distances (Cohen 1968); NaN where chance could not err."""
    by_chance = ((stages[:, None] - called) ** 2).mean()
    return float(1 - ((stages - called) ** 2).mean() / by_chance) if by_chance else float("nan")


def recalls(stages: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    """Of each stage that is there how many are called so: columns stage, found, images, value, low, high (Wilson)."""
    rows = []
    for stage in np.unique(stages):
        found, images = int((called[stages == stage] == stage).sum()), int((stages == stage).sum())
        rows.append((NAMES[stage], found, images, found / images, *wilson(found, images)))
    return pd.DataFrame(rows, columns=["stage", "found", "images", "value", "low", "high"])


def dummies(stages: np.ndarray, called_positive: np.ndarray) -> dict[str, np.ndarray]:
    """Stages (images,) that no reader of stages called: everyone normal; a yes or no, its yes relabelled III."""
    return {"all normal": np.zeros_like(stages), "the binary call, relabelled III": np.where(called_positive, 3, 0)}
