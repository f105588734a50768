"""The recipe of Section 3.1 as one would write it down at once: what the benchmark and the tests compare with.

Nothing of `pneumo_nb` is used here: JPG files through a DataLoader with PIL and torchvision's transforms, torchvision's
ResNet34, a DenseNet of plain modules and concatenation, plain Adam, the metrics asked for at every step.
"""

from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Radiographs(Dataset):
    """JPG files and their labels; each is read, resized and turned into a tensor when it is asked for."""

    def __init__(self, files: list[Path], labels: list[int], size: int, channels: int, flip: float):
        self.files, self.labels = files, labels
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.RandomHorizontalFlip(flip),
                transforms.Grayscale(channels),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        with Image.open(self.files[index]) as image:
            return self.transform(image), self.labels[index]


def layer(width: int, growth_rate: int, bottleneck: bool) -> nn.Sequential:
    """BN-ReLU-convolution, once with a 3x3, or twice with a 1x1 to four growth rates first."""
    if not bottleneck:
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth_rate, 3, padding=1, bias=False))
    few = 4 * growth_rate
    return nn.Sequential(
        *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, few, 1, bias=False)),
        *(nn.BatchNorm2d(few), nn.ReLU(), nn.Conv2d(few, growth_rate, 3, padding=1, bias=False)),
    )


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions between them, average pooling, two outputs."""

    def __init__(self, channels, depth, blocks, bottleneck, growth_rate, reduction, stem):
        super().__init__()
        layers = (depth - blocks - 1) // blocks // (2 if bottleneck else 1)
        width = 2 * growth_rate
        if stem == "3x3":
            self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False))
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)
            )
        self.parts = nn.ModuleList()
        for block in range(blocks):
            self.parts.append(
                nn.ModuleList(layer(width + place * growth_rate, growth_rate, bottleneck) for place in range(layers))
            )
            width += layers * growth_rate
            if block < blocks - 1:
                reduced = int(width * reduction)
                conv = nn.Conv2d(width, reduced, 1, bias=False)
                self.parts.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv, nn.AvgPool2d(2)))
                width = reduced
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, 2)

    def forward(self, x):
        x = self.stem(x)
        for part in self.parts:
            if isinstance(part, nn.ModuleList):
                for layer in part:
                    x = torch.cat([x, layer(x)], dim=1)
            else:
                x = part(x)
        return self.classifier(self.last(x))


def network(model: str, channels: int, **densenet) -> nn.Module:
    """torchvision's ResNet34 with two outputs, or the DenseNet above."""
    if model == "densenet":
        return DenseNet(channels, **densenet)
    net = torchvision.models.resnet34(num_classes=2)
    if channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return net


def loss(logits, labels, n: float):
    """Eq. 7 read as a weight of each sample: n for a positive, 1 for a negative."""
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    return (each * torch.where(labels == 1, n, 1.0)).mean()


def train_epoch(net: nn.Module, optimiser, loader: DataLoader, device, n: float) -> tuple[float, float]:
    """One pass over the training set; the mean loss and the accuracy met on the way."""
    net.train()
    total, right, seen = 0.0, 0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimiser.zero_grad()
        logits = net(images)
        value = loss(logits, labels, n)
        value.backward()
        optimiser.step()
        total += value.item() * len(labels)
        right += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return total / seen, right / seen


@torch.no_grad()
def evaluate(net: nn.Module, loader: DataLoader, device) -> float:
    """The accuracy on the testing set."""
    net.eval()
    right, seen = 0, 0
    for images, labels in loader:
        right += (net(images.to(device)).argmax(1) == labels.to(device)).sum().item()
        seen += len(labels)
    return right / seen
