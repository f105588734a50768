"""The networks of the paper: ResNet34 (Section 2.2.1)."""

import copy

import torch
import torchvision
from torch import nn

STEM_WIDTH = 64


def build(model: str, channels: int = 3, norm_layer: str = "batch", seed: int = 0) -> nn.Module:
    """An untrained network with two outputs, negative and positive: (batch, channels, height, width) -> (batch, 2).

    `seed` alone decides the initial weights; the global random state is left as it was.
    """
    if model != "resnet34":
        raise ValueError(f"no model {model!r}; the models are resnet34")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resnet34(channels, norm_layer)


def resnet34(channels: int = 3, norm_layer: str = "batch") -> nn.Module:
    """Figure 3: a 7x7 stem, 3 + 4 + 6 + 3 residual blocks of 64, 128, 256 and 512 channels, a 2-category head."""
    norms = {"batch": nn.BatchNorm2d, "group": lambda width: nn.GroupNorm(min(32, width), width)}
    net = torchvision.models.resnet34(num_classes=2, norm_layer=norms[norm_layer])
    if channels != 3:
        net.conv1 = nn.Conv2d(channels, STEM_WIDTH, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net


def parameters(module: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def layers(net: nn.Module, image_size: int, channels: int = 3) -> list[dict]:
    """Every convolution and linear layer in the order of the forward pass, with output size and parameters.

    A row holds name, kind, kernel, stride, output (channels, height, width) and parameters; nothing is computed but
    shapes, so 672 x 672 costs nothing.
    """
    rows: list[dict] = []
    net = copy.deepcopy(net).to("meta").eval()

    def note(name: str, layer: nn.Module):
        def hook(_module, _inputs, output):
            rows.append(
                {
                    "name": name,
                    "kind": "conv" if isinstance(layer, nn.Conv2d) else "linear",
                    "kernel": getattr(layer, "kernel_size", (0,))[0],
                    "stride": getattr(layer, "stride", (0,))[0],
                    "output": tuple(output.shape[1:]),
                    "parameters": parameters(layer),
                }
            )

        return hook

    counted = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for name, layer in counted:
        layer.register_forward_hook(note(name, layer))
    with torch.no_grad():
        net(torch.empty(1, channels, image_size, image_size, device="meta"))
    return rows
