"""What a network shows of a radiograph: feature maps, Grad-CAM, and what it loses when its evidence is taken away."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from pneumo_nb.train import machine

POSITIVE = 1  # the output for pneumoconiosis
BLOCK = re.compile(r"features\.dense\d+|layer\d+")  # dense blocks, and the stages of a ResNet
BLUR = 0.05  # sigma of the blur that takes evidence away, as a share of the picture's side


@contextmanager
def recorded(net: nn.Module, layer: str, only: bool = False) -> Iterator[list[Tensor]]:
    """Within the block each forward pass of `net` adds the output of `layer` to the list.

    The hook is removed however the block ends. With `only` the block ends at the first output, and what lies behind the
    layer is not computed. A ValueError lists the layers that the network has.
    """
    outputs: list[Tensor] = []

    def hook(_module, _inputs, output):
        outputs.append(output)
        if only:
            raise _Reached

    with suppress(_Reached), _module(net, layer).register_forward_hook(hook):
        yield outputs


class _Reached(Exception):
    """The layer has spoken."""


def layers(net: nn.Module) -> list[str]:
    """What one would look at: the first convolution, then each dense block, or each stage of a ResNet."""
    first = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return [first, *(name for name, _ in net.named_modules() if BLOCK.fullmatch(name))]


def feature_maps(net: nn.Module, x: Tensor, layer: str) -> np.ndarray:
    """The output of a layer for radiographs (batch, channels, height, width): (batch, maps, map height, map width)."""
    with torch.inference_mode(), recorded(net, layer, only=True) as outputs:
        net.eval()(x)
    return outputs[0].cpu().numpy()


def grad_cam(net: nn.Module, x: Tensor, layer: str) -> np.ndarray:
    """Where a layer speaks for pneumoconiosis (Selvaraju et al. 2017, Equations 1 and 2): (batch, 1, height, width).

    The layer's maps, each weighted by the mean of its gradient, summed, what is below zero left out.
    """
    maps: list[Tensor] = []

    def hook(_module, _inputs, output):
        torch.set_grad_enabled(True)  # from here on, so that nothing before the layer is kept for the backward pass
        maps.append(output.detach().requires_grad_())
        return maps[0]

    with torch.no_grad(), _module(net, layer).register_forward_hook(hook):
        positive = net.eval()(x)[:, POSITIVE].sum()
    (gradient,) = torch.autograd.grad(positive, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * maps[0]).sum(dim=1, keepdim=True).relu().detach().cpu().numpy()


def deletion_and_insertion(net: nn.Module, x: Tensor, importance: np.ndarray, steps: int = 10) -> np.ndarray:
    """Probability of pneumoconiosis while the most important pixels go, and while they come: (2, steps + 1).

    `x` is one radiograph (1, channels, height, width), `importance` (height, width). Deletion starts from it and blurs
    it from the most important pixel on; insertion starts from the blurred one (Petsiuk et al. 2018, Section 3.3).
    Evidence that counts makes the first curve fall early and the second rise early.
    """
    sigma = BLUR * x.shape[-1]
    blurred = gaussian_blur(x, [2 * int(2 * sigma) + 1] * 2, [sigma] * 2)
    rank = np.argsort(np.argsort(-importance.ravel(), kind="stable"))
    shares = torch.linspace(0, 1, steps + 1).view(-1, 1, 1, 1)
    first = (torch.from_numpy(rank.reshape(1, 1, *importance.shape)) < shares * importance.size).to(x.device)
    changed = torch.cat([torch.where(first, blurred, x), torch.where(first, x, blurred)])
    with torch.inference_mode():
        logits = torch.cat([net.eval()(part) for part in changed.split(machine.at_once(x.shape[-1], x.device))])
    return logits.softmax(dim=1)[:, POSITIVE].view(2, -1).cpu().numpy()


def _module(net: nn.Module, name: str) -> nn.Module:
    """The part of that name; of a Sequential its last part, whose output is the same and which is always called."""
    parts = dict(net.named_modules())
    if not name or name not in parts:
        raise ValueError(f"the network has no layer {name!r}; it has {', '.join(layers(net))}")
    part = parts[name]
    while isinstance(part, nn.Sequential):
        part = part[-1]
    return part
