"""The networks of the paper: ResNet34 (Section 2.2.1) and DenseNets (Section 2.2.2); and Inception-V3, a rival."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from math import gcd

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pneumo_nb.settings import TrainSettings, layers_per_block

BOTTLENECK_WIDTH = 4  # growth rates that a bottleneck's 1x1 convolution leaves (Huang et al. 2017, Section 3)

NORM_LAYERS = {"batch": nn.BatchNorm2d, "group": lambda width: nn.GroupNorm(gcd(32, width), width)}


def build(model: str, channels: int = 3, norm_layer: str = "batch", seed: int = 0, **architecture) -> nn.Module:
    """An untrained network with two outputs, negative and positive: (batch, channels, height, width) -> (batch, 2).

    `architecture` goes to `DenseNet`. `seed` alone decides the initial weights; the global random state is left alone.
    """
    makers = {"resnet34": resnet34, "densenet": DenseNet, "inception_v3": inception_v3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return makers[model](channels=channels, norm_layer=norm_layer, **architecture)


def resnet34(channels: int = 3, norm_layer: str = "batch") -> nn.Module:
    """Figure 3: a 7x7 stem, 3 + 4 + 6 + 3 residual blocks of 64, 128, 256 and 512 channels, a 2-category head."""
    import torchvision  # takes as long to import as torch itself, and DenseNets do without

    net = torchvision.models.resnet34(num_classes=2, norm_layer=NORM_LAYERS[norm_layer])
    if channels != 3:
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net


def inception_v3(channels: int = 3, norm_layer: str = "batch") -> nn.Module:
    """Szegedy et al. 2016, as Wang et al. 2020 used it on pneumoconiosis; without the head that helps in training."""
    import torchvision

    net = torchvision.models.inception_v3(num_classes=2, aux_logits=False, init_weights=True)
    net.Conv2d_1a_3x3.conv = nn.Conv2d(channels, 32, kernel_size=3, stride=2, bias=False)
    return net


def _layer(width: int, out: int, kernel: int, drop_rate: float, norm_layer: str) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(width, out, kernel_size=kernel, padding=kernel // 2, bias=False)
    return NORM_LAYERS[norm_layer](width), nn.ReLU(), conv, nn.Dropout(drop_rate)


class BasicBlock(nn.Module):
    """Figure 5, bottleneck False: BN, ReLU and a 3x3 convolution add `growth_rate` feature maps to `width` (Eq. 6)."""

    def __init__(self, width: int, growth_rate: int, drop_rate: float = 0.0, norm_layer: str = "batch"):
        super().__init__()
        self.norm, self.relu, self.conv, self.drop = _layer(width, growth_rate, 3, drop_rate, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) -> the same with `growth_rate` more channels behind."""
        return torch.cat([x, self.drop(self.conv(self.relu(self.norm(x))))], dim=1)


class BottleneckBlock(nn.Module):
    """Figure 5, bottleneck True: a 1x1 convolution to four times the growth rate comes before the 3x3 convolution."""

    def __init__(self, width: int, growth_rate: int, drop_rate: float = 0.0, norm_layer: str = "batch"):
        super().__init__()
        between = BOTTLENECK_WIDTH * growth_rate
        self.norm1, self.relu1, self.conv1, self.drop1 = _layer(width, between, 1, drop_rate, norm_layer)
        self.norm2, self.relu2, self.conv2, self.drop2 = _layer(between, growth_rate, 3, drop_rate, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) -> the same with `growth_rate` more channels behind."""
        few = self.drop1(self.conv1(self.relu1(self.norm1(x))))
        return torch.cat([x, self.drop2(self.conv2(self.relu2(self.norm2(few))))], dim=1)


class Transition(nn.Module):
    """Figure 5b: BN, ReLU and a 1x1 convolution from `width` to `reduced` channels, then 2x2 average pooling."""

    def __init__(self, width: int, reduced: int, drop_rate: float = 0.0, norm_layer: str = "batch"):
        super().__init__()
        self.norm, self.relu, self.conv, self.drop = _layer(width, reduced, 1, drop_rate, norm_layer)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) -> (batch, reduced, height / 2, width / 2)."""
        return self.pool(self.drop(self.conv(self.relu(self.norm(x)))))


class DenseNet(nn.Module):
    """Figures 6 and 8: a stem, `blocks` dense blocks, a transition between each two, average pooling, two outputs.

    `architecture` are fields of `TrainSettings`, by default as there; a ValueError names what does not fit. `depth`
    counts convolutions and the linear layer; `reduction` is the share of channels that a transition keeps (`multiply`),
    or what their number is divided by (`divide`, the letter of Section 3.2.3); dropout follows each convolution but the
    stem (Huang et al. 2017, Section 4.2). `checkpointing` computes layers again in the backward pass: less memory.
    """

    def __init__(self, **architecture):
        super().__init__()
        chosen = TrainSettings.of(model="densenet", **architecture)
        self.checkpointing = chosen.checkpointing
        layers, width = layers_per_block(chosen.depth, chosen.blocks, chosen.bottleneck), 2 * chosen.growth_rate
        layer, common = BottleneckBlock if chosen.bottleneck else BasicBlock, (chosen.drop_rate, chosen.norm_layer)
        self.stem = _stem(chosen.stem, chosen.channels, width)
        self.features = nn.Sequential()
        for block in range(1, chosen.blocks + 1):
            widths = [width + place * chosen.growth_rate for place in range(layers)]
            dense = nn.Sequential(*(layer(before, chosen.growth_rate, *common) for before in widths))
            self.features.add_module(f"dense{block}", dense)
            width += layers * chosen.growth_rate
            if block < chosen.blocks:
                multiply = chosen.reduction_reading == "multiply"
                reduced = int(width * chosen.reduction if multiply else width / chosen.reduction)
                self.features.add_module(f"transition{block}", Transition(width, reduced, *common))
                width = reduced
        self.norm, self.relu = NORM_LAYERS[chosen.norm_layer](width), nn.ReLU()
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(width, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, 2)."""
        x = self.stem(x.to(memory_format=torch.channels_last))  # in memory: every step is faster so, on CPUs and GPUs
        for part in self.features:
            for step in part if isinstance(part, nn.Sequential) else [part]:
                x = _again_in_backward(step, x) if self.checkpointing and self.training else step(x)
        return self.classifier(self.pool(self.relu(self.norm(x))).flatten(1))


def _stem(kind: str, channels: int, width: int) -> nn.Module:
    if kind == "3x3":
        return nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
    conv = nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    return nn.Sequential(conv, nn.MaxPool2d(kernel_size=3, stride=2, padding=1))


def _again_in_backward(step: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(step, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(step)))


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Put back afterwards what batch normalisation counted within, so that no batch counts twice."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:  # the recomputation may be left as soon as it has what it needs
        for buffer, value in before:
            buffer.copy_(value)


def parameters(module: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def layer_table(net: nn.Module, image_size: int, channels: int = 3) -> list[dict]:
    """Every convolution and linear layer in the order of the forward pass, with output size and parameters.

    A row holds name, kind, kernel, stride, output (channels, height, width) and parameters; only shapes are computed.
    """
    rows: list[dict] = []
    net = copy.deepcopy(net).to("meta").eval()

    def note(layer: nn.Module, _inputs: tuple, output: Tensor, name: str) -> None:
        about = {"name": name, "kind": "conv" if isinstance(layer, nn.Conv2d) else "linear"}
        about |= {part: getattr(layer, f"{part}{end}", (0,))[0] for part, end in (("kernel", "_size"), ("stride", ""))}
        rows.append(about | {"output": tuple(output.shape[1:]), "parameters": parameters(layer)})

    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(partial(note, name=name))
    with torch.no_grad():
        net(torch.empty(1, channels, image_size, image_size, device="meta"))
    return rows
