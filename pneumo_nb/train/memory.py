"""How much memory a training will need, from one step on shapes alone, and what to lower where that is too much."""

import copy
import ctypes
import math
import re
import resource
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pneumo_nb.settings import TrainSettings

GIB = 2**30
BESIDE_TENSORS = {"cpu": 1.1, "cuda": 1.0}  # times what tensors take: oneDNN has copies of its own
STATUS = Path("/proc/self/status")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def refuse_too_large(
    settings: TrainSettings, net: nn.Module, device: torch.device, trained: int, evaluated: int
) -> float:
    """Stop before the first epoch if a training cannot fit into the memory that is free now; tell how often it would.

    `net` and the dataset have their place already; what is to come are Adam's two moments, gradients and feature maps,
    while training on `trained` images at once or evaluating `evaluated`. A MemoryError says what to lower, and by how
    much; a ValueError that the network cannot train at this image size and batch size at all.
    """
    moments = 2 * sum(weight.nbytes for weight in net.parameters())
    training, evaluating = (
        int(BESIDE_TENSORS[device.type] * _dry_run(settings, net, images, training=learns))
        for images, learns in ((trained, True), (evaluated, False))
    )
    room = free(device) - moments
    if max(training, evaluating) <= room:
        return room / max(training, evaluating)
    where = "on the GPU" if device.type == "cuda" else "in memory"
    batch_size = int(trained * room / training) if room >= evaluating else 0
    lower = _lower(batch_size, settings.image_size, room / max(training, evaluating))
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
    return min([psutil.virtual_memory().available, *_shares()])


def peak_mib(device: torch.device) -> float:
    """Most memory so far, in MiB: allocated on the GPU, or resident of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    told = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.is_file() else None
    if told:  # Linux, where getrusage tells a process that has just begun the peak of the one that started it
        return int(told[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _shares() -> Iterator[int]:
    """Bytes left of what a container, or a cluster's job, may use: of this process's control group and those around."""
    with suppress(OSError):  # not Linux
        own = CGROUPS / OWN_CGROUP.read_text().splitlines()[-1].rpartition(":/")[2]
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError, KeyError):  # not limited: no file, or the word "max"
                most, now = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
                held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield most - now + int(held["active_file"]) + int(held["inactive_file"])  # files are let go in need


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


def _lower(batch_size: int, image_size: int, share: float) -> str:
    """What would fit: this batch size, or images of which the feature maps take this share of what was asked for."""
    image_size = int(image_size * math.sqrt(max(0.0, share))) // 16 * 16
    ways = {"batch_size": batch_size} if batch_size >= 1 else {}
    ways |= {"image_size": image_size} if image_size >= 16 else {}
    return " or ".join(f"{name} = {value}" for name, value in ways.items()) or "neither fewer nor smaller images"
