"""How a training uses the machine: memory, precision and compilation, in one place behind the network."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pneumo_nb.settings import TrainSettings

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # the numbers of mallopt(3)
COMPILERS = ("g++", "clang++", "c++")


def refuse_unfit(settings: TrainSettings, device: torch.device) -> None:
    """A ValueError says what the device or the machine lacks for the precision or the compilation asked for."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError("precision = 'tf32' is what GPUs of NVIDIA calculate with: choose float32 for a CPU, or bf16")
    if settings.compile and not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"compile = True needs a C++ compiler, {', '.join(COMPILERS)}; none is here: leave it False")


def keep_memory() -> None:
    """Let this process keep the memory that it frees, until it ends: each step asks for the same tensors again.

    glibc gives blocks beyond 32 MiB back to the system at once; to get them zeroed again takes about as long as to
    compute what goes into them. Other C libraries are left as they are.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell:
        tell(MMAP_MAX, 0)
        tell(TRIM_THRESHOLD, -1)


def in_place(net: nn.Module) -> nn.Module:
    """The same network with activations that overwrite what they read: less to write and to keep, the same numbers.

    For training alone: a hook of an explainer would find a feature map overwritten.
    """
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return net


@contextmanager
def precision(name: str) -> Iterator[None]:
    """How a GPU multiplies float32 numbers: all their bits, or with `tf32` 10 of the 23 after the point.

    torch alone would use TF32 in convolutions and nowhere else; its setting is put back afterwards. For `bf16` see
    `forward`.
    """
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def forward(net: nn.Module, settings: TrainSettings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network as a training step calls it: images -> logits, float32, with the gradients of `net`.

    With `compile` torch joins what is bound by memory, and on a GPU records each step's kernels as one CUDA graph;
    with `bf16` layers calculate in bfloat16 where torch holds that to be safe. Evaluation calls `net` itself.
    """
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    run = torch.compile(net, mode=mode, dynamic=False) if settings.compile else net

    def logits(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            return run(images).float().clone()  # a CUDA graph writes its next output into the same place

    return logits
