"""Networks on disk: a checkpoint to go on from, and weights. Neither can run code, and neither is taken for another."""

import io
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from pneumo_nb import paths, settings

CHECKPOINT_FORMAT = 1  # of checkpoint.pt: another number refuses those of other versions


def save(path: Path, identity: dict, done: dict, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Save what a training has `done`, and its `identity`, both of tensors and plain values, whole or not at all."""
    state = {"identity": {"format": CHECKPOINT_FORMAT} | identity, "done": done}
    content = io.BytesIO()  # torch's own writing to a file hides that a disk is full
    torch.save(state | {"network": net.state_dict(), "optimiser": optimiser.state_dict()}, content)
    paths.write(path, content.getvalue())


def resume(path: Path | None, identity: dict, net: nn.Module, optimiser: torch.optim.Optimizer) -> dict:
    """Give network and optimiser the state of a checkpoint and return what was done; {} where there is no checkpoint.

    A ValueError refuses a file that is damaged or belongs to another training; it stays, since it may be wanted.
    """
    if path is None or not path.is_file():
        return {}
    name = f"{path.name} of run {path.parent.name}"
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the check sums
            intact = archive.testzip() is None
        saved = torch.load(path, weights_only=True, map_location="cpu") if intact else {}
        theirs = dict(saved["identity"])
    except Exception:  # zipfile, torch and pickle raise many kinds
        raise ValueError(f"{name} is damaged or no checkpoint: remove it to train from the start") from None
    ours = {"format": CHECKPOINT_FORMAT} | identity
    differing = [f"{key} = {theirs.get(key)}, not {value}" for key, value in ours.items() if theirs.get(key) != value]
    settings.refuse(differing, f"{name} belongs to another training ({', '.join(differing)}): move it away")
    net.load_state_dict(saved["network"])
    how = {"param_groups": optimiser.state_dict()["param_groups"]}  # follows from settings, and from the device
    optimiser.load_state_dict(saved["optimiser"] | how)
    return dict(saved["done"])


def load_weights(net: nn.Module, path: Path, name: str, model: str) -> None:
    """Fill a network from a safetensors file; a ValueError says why `name` does not fit."""
    try:
        net.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise several kinds; all mean the same to the user
        said = " ".join(str(error).split())[:160]  # torch names every tensor that does not fit
        raise ValueError(f"{name} does not fit {model}: {said}") from None
