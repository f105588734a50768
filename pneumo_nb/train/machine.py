"""How a training uses the machine: memory, precision, compilation, recording; in one place behind the network."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pneumo_nb.settings import TrainSettings

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # the numbers of mallopt(3)
EVALUATED_PIXELS = {"cpu": 2**18, "cuda": 2**23}  # at once: beyond, a CPU is no faster and needs more memory
COMPILERS = ("g++", "clang++", "c++")
BEFORE_RECORDING = 3  # steps


def refuse_unfit(settings: TrainSettings, device: torch.device) -> None:
    """A ValueError says what the device or the machine lacks for the precision or the compilation asked for."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError("precision = 'tf32' is what GPUs of NVIDIA calculate with: choose float32 for a CPU, or bf16")
    if settings.compile and not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"compile = True needs a C++ compiler, {', '.join(COMPILERS)}; none is here: leave it False")


def keep_memory(wanted: bool) -> None:
    """Let this process keep the memory that it frees, or give all but small blocks back at once.

    Each step asks for the same blocks again, and to get them zeroed by the system takes about as long as to compute
    what goes into them. But what is kept falls to pieces, and comes to two or three times what is in use. Of itself
    glibc keeps blocks of up to 32 MiB; other C libraries are left as they are.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell:
        tell(MMAP_THRESHOLD, 2**20)
        tell(MMAP_MAX, 0 if wanted else 2**16)
        tell(TRIM_THRESHOLD, -1 if wanted else 2**26)


def at_once(image_size: int, device: torch.device) -> int:
    """How many radiographs are evaluated at once; it changes speed and memory only."""
    return min(16, max(1, EVALUATED_PIXELS[device.type] // image_size**2))


def in_place(net: nn.Module) -> nn.Module:
    """The same network with activations that overwrite what they read: less to write and to keep, the same numbers.

    For training alone: a hook of an explainer would find a feature map overwritten.
    """
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return net


def adam(net: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.Adam:
    """Section 3.1's optimiser, in one pass over all weights; on a GPU such that `recorded` can hold its step too."""
    return torch.optim.Adam(
        net.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )


@contextmanager
def precision(name: str) -> Iterator[None]:
    """How a GPU multiplies float32 numbers: all their bits, or with `tf32` 10 of the 23 after the point.

    torch alone would use TF32 in convolutions and nowhere else; its setting is put back afterwards. For `bf16` see
    `forward`.
    """
    places = torch.backends.cuda.matmul, torch.backends.cudnn  # by the newer fp32_precision torch.compile may stop
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


def forward(net: nn.Module, settings: TrainSettings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network as a training step calls it: images -> logits, float32, with the gradients of `net`.

    With `compile` torch joins what is bound by memory; with `bf16` layers calculate in bfloat16 where torch holds that
    to be safe. Evaluation calls `net` itself.
    """
    run = torch.compile(net, dynamic=False) if settings.compile else net
    # channels last in memory is what tensor cores calculate with; ResNet34 in float32 is slower so
    tensor_cores = device.type == "cuda" and settings.precision != "float32"
    layout = torch.channels_last if tensor_cores else torch.preserve_format

    def logits(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            return run(images.to(memory_format=layout)).float()

    return logits


def recorded(step: Callable[..., tuple[Tensor, ...]], batch_size: int) -> Callable[..., tuple[Tensor, ...]]:
    """A training step on a GPU as one CUDA graph: the same kernels on the same numbers, started all at once.

    `step` takes tensors on the GPU, the first as long as the batch, and must not wait for the GPU. Its first calls run
    as they are, as torch asks for before it records; so does a batch of another size than `batch_size`.
    """
    aside, graph, places, results, calls = torch.cuda.Stream(), torch.cuda.CUDAGraph(), [], [], 0

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        nonlocal calls
        usual = len(inputs[0]) == batch_size
        calls += usual
        if not usual or calls <= BEFORE_RECORDING:
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                outputs = step(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            return outputs
        if not places:
            places.extend(given.clone() for given in inputs)
            with torch.cuda.graph(graph, stream=aside):
                results.extend(step(*places))
        for place, given in zip(places, inputs, strict=True):
            place.copy_(given)
        graph.replay()
        return tuple(result.clone() for result in results)

    return call
