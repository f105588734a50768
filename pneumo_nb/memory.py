"""How much memory a training will need, from one step on shapes alone, and what to lower where that is too much."""

import copy
import ctypes
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pneumo_nb.settings import TrainSettings

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")  # where Linux tells a container or a cluster's job how much it may use


def refuse_too_large(settings: TrainSettings, net: nn.Module, device: torch.device, evaluated: int) -> None:
    """Stop before the first epoch if a training cannot fit into the memory that is free now.

    `net` and the dataset have their place already; what is to come are Adam's two moments, gradients and feature maps,
    while training or while evaluating `evaluated` images at once. A MemoryError says what to lower, and by how much; a
    ValueError that the network cannot train at this image size and batch size at all.
    """
    moments = 2 * sum(weight.nbytes for weight in net.parameters())
    training = _dry_run(settings, net, settings.batch_size, training=True)
    evaluating = _dry_run(settings, net, evaluated, training=False)
    room = free(device) - moments
    if max(training, evaluating) <= room:
        return
    where = "on the GPU" if device.type == "cuda" else "in memory"
    lower = _lower(settings, room / training, room / evaluating)
    raise MemoryError(
        f"{settings.model} at image_size = {settings.image_size} and batch_size = {settings.batch_size} needs about"
        f" {(moments + max(training, evaluating)) / GIB:.1f} GiB more; {free(device) / GIB:.1f} GiB are free {where}:"
        f" {lower} would fit"
    )


def refuse_too_many(images: int, image_size: int, bytes_a_pixel: int) -> None:
    """Stop before a dataset is read that cannot be held; a MemoryError says at which image size it could be."""
    needed, room = images * image_size**2 * bytes_a_pixel, free(torch.device("cpu"))
    if needed > room:
        raise MemoryError(
            f"{images} radiographs at image_size = {image_size} take {needed / GIB:.1f} GiB; {room / GIB:.1f} GiB are"
            f" free in memory: image_size = {math.isqrt(room // (images * bytes_a_pixel))} would fit"
        )


def free(device: torch.device) -> int:
    """Bytes that this process can still take, on a GPU or of the machine's memory and its container's share of it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:  # glibc may keep what earlier runs freed
        trim(0)
    try:
        share = int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such share, or the word "max"
        return psutil.virtual_memory().available
    return min(share, psutil.virtual_memory().available)


@contextmanager
def shortage_named(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """If memory runs out all the same, say in one line what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise  # not what torch says on a CPU
        error.with_traceback(None)  # its frames would keep the failed step's tensors
        where = "the GPU's memory" if device.type == "cuda" else "memory"
        raise MemoryError(
            f"{where} ran out while training {settings.model}: lower batch_size = {settings.batch_size} or image_size ="
            f" {settings.image_size}, by half to begin with, or end what else uses it"
        ) from None


def _dry_run(settings: TrainSettings, net: nn.Module, images: int, training: bool) -> int:
    """Most bytes alive at once in one step over `images`, gradients included; only shapes are computed."""
    net = copy.deepcopy(net).to("meta").train(training)
    batch = torch.empty(images, settings.channels, settings.image_size, settings.image_size, device="meta")
    with _Alive() as alive, torch.set_grad_enabled(training):
        try:
            logits = net(batch)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{settings.model} cannot train at image_size = {settings.image_size} and batch_size ="
                f" {settings.batch_size}: {str(error).splitlines()[0]}"
            ) from None
        if training:
            logits.sum().backward()
    return batch.nbytes + alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is on, until they are let go."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())

    def _let_go(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def _lower(settings: TrainSettings, training: float, evaluating: float) -> str:
    """The largest batch size and image size that fit, given the share of the feature maps that does."""
    ways = []
    batch_size, scale = int(settings.batch_size * training), math.sqrt(max(0.0, min(training, evaluating)))
    image_size = int(settings.image_size * scale) // 16 * 16
    if batch_size >= 1 and evaluating >= 1:
        ways.append(f"batch_size = {batch_size}")
    if image_size >= 16:
        ways.append(f"image_size = {image_size}")
    return " or ".join(ways) or "neither fewer images a batch nor smaller ones"
