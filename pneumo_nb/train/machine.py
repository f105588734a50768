"""How a training uses the machine: memory, counted before it is taken, algorithms, precision, compilation."""

import copy
import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from pneumo_nb.settings import TrainSettings

BESIDE_TENSORS = {"cpu": 1.1, "cuda": 1.0}  # times what tensors take: oneDNN has copies of its own
STATUS, CGROUPS, OWN_CGROUP = map(Path, ("/proc/self/status", "/sys/fs/cgroup", "/proc/self/cgroup"))
EVALUATED_PIXELS = {"cpu": 2**18, "cuda": 2**23}  # at once: beyond, a CPU is no faster and needs more memory
TORCH = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
COMPILERS = ("g++", "clang++", "c++")
BEFORE_RECORDING = 3  # steps


def refuse_incapable(settings: TrainSettings, device: torch.device) -> None:
    """A ValueError says what the device or the machine lacks for the precision or the compilation asked for."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError("precision = 'tf32' is what GPUs of NVIDIA calculate with: choose float32 for a CPU, or bf16")
    if settings.compile and not any(map(shutil.which, COMPILERS)):
        raise ValueError(f"compile = True needs a C++ compiler, {', '.join(COMPILERS)}; none is here: leave it False")


def refuse_too_large(settings: TrainSettings, net: nn.Module, device: torch.device, trained: int, tested: int) -> float:
    """Stop before the first epoch if a training cannot fit into the memory that is free now; tell how often it would.

    What is to come beside `net` and the dataset are Adam's two moments, gradients and feature maps, of `trained` images
    at once or of `tested`. A MemoryError says what to lower to what, a ValueError that these sizes cannot train.
    """
    moments, times = 2 * sum(weight.nbytes for weight in net.parameters()), BESIDE_TENSORS[device.type]
    training = int(times * _dry_run(settings, net, trained, training=True))
    evaluating = int(times * _dry_run(settings, net, tested, training=False))
    room, needed = free(device) - moments, max(training, evaluating)
    if needed <= room:
        return room / needed
    batch_size = int(trained * room / training) if room >= evaluating else 0
    image_size = int(settings.image_size * max(0.0, room / needed) ** 0.5) // 16 * 16
    ways = [f"batch_size = {batch_size}"] * (batch_size >= 1) + [f"image_size = {image_size}"] * (image_size >= 16)
    told = f"{settings.model} at {_sizes(settings)} needs about {(moments + needed) / 2**30:.1f} GiB more"
    where = "on the GPU" if device.type == "cuda" else "in memory"
    there = f"{free(device) / 2**30:.1f} GiB are free {where}"
    raise MemoryError(f"{told}; {there}: {' or '.join(ways) or 'neither fewer nor smaller images'} would fit")


def _sizes(settings: TrainSettings) -> str:
    return f"image_size = {settings.image_size} and batch_size = {settings.batch_size}"


def free(device: torch.device) -> int:
    """Bytes that this process can still take, on a GPU or of the machine's memory and its container's share of it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)  # glibc may keep what earlier runs freed
    return min([psutil.virtual_memory().available, *_shares()])


def peak_mib(device: torch.device) -> float:
    """Most memory so far, in MiB: allocated on the GPU, or resident of this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if STATUS.is_file():  # Linux, where getrusage tells a process that has just begun the peak of its parent
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 2**10  # of kB
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
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise  # not what torch says on a CPU
        error.with_traceback(None)  # its frames would keep the failed step's tensors
        whose = "the GPU's memory" if device.type == "cuda" else "memory"
        lower = f"lower batch_size = {settings.batch_size} or image_size = {settings.image_size}, by half to begin with"
        told = f"{whose} ran out while training {settings.model}: {lower}"
        raise MemoryError(f"{told}, or end what else uses it") from None


def _dry_run(settings: TrainSettings, net: nn.Module, images: int, training: bool) -> int:
    """Most bytes alive at once in one step over `images`, gradients included; only shapes are computed."""
    net = copy.deepcopy(net).to("meta").train(training)
    batch = torch.empty(images, settings.channels, settings.image_size, settings.image_size, device="meta")
    with _Alive() as alive, torch.set_grad_enabled(training):
        try:
            logits = net(batch)
        except (ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"{settings.model} cannot train at {_sizes(settings)}: {said}") from None
        if training:
            logits.sum().backward()
    return batch.nbytes + alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is on, until they are let go."""

    def __init__(self):
        super().__init__()
        self.sizes, self.most = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        storages = [tensor.untyped_storage() for tensor in tree_leaves(made) if isinstance(tensor, Tensor)]
        self.sizes.update({storage: storage.nbytes() for storage in storages})
        self.most = max(self.most, sum(self.sizes.values()))
        return made


def at_once(image_size: int, device: torch.device) -> int:
    """How many radiographs are evaluated at once; it changes speed and memory only."""
    return min(16, max(1, EVALUATED_PIXELS[device.type] // image_size**2))


def in_place(net: nn.Module) -> nn.Module:
    """The same network for training alone: its activations overwrite what they read, which changes no number."""
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return net


def adam(net: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.Adam:
    """Section 3.1's optimiser, in one pass over all weights; on a GPU such that `as_cuda_graph` can hold its step."""
    rate, decay, gpu = settings.learning_rate, settings.weight_decay, device.type == "cuda"
    return torch.optim.Adam(net.parameters(), lr=rate, weight_decay=decay, fused=True, capturable=gpu)


@contextmanager
def arithmetic(settings: TrainSettings) -> Iterator[None]:
    """How torch calculates while a network trains; its own settings are put back afterwards.

    `deterministic` asks for reproducible algorithms, else for those it measures to be fastest. With `precision` tf32 a
    GPU multiplies with 10 of the 23 bits after the point, else with all; torch alone would do so in convolutions only.
    """
    cudnn, tf32 = torch.backends.cudnn, settings.precision == "tf32"
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses cuBLAS as not deterministic
    with ExitStack() as put_back:
        put_back.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        torch.use_deterministic_algorithms(settings.deterministic)
        for place, name, value in (
            (torch.utils.deterministic, "fill_uninitialized_memory", False),  # a debugging aid that costs time
            (cudnn, "benchmark", not settings.deterministic),
            (cudnn, "allow_tf32", tf32),  # by the newer fp32_precision torch.compile may stop
            (torch.backends.cuda.matmul, "allow_tf32", tf32),
        ):
            put_back.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        yield


@contextmanager
def own_cores(wanted: bool = True) -> Iterator[None]:
    """Keep each of torch's threads on a core of its own, where it has as many threads as there are cores (Linux).

    They wait for each other after every layer, so two of them on one core make a step many times as long. What the
    calling thread starts meanwhile, threads or processes, would stay on its core: it is to start none.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    openmp = ctypes.CDLL(str(TORCH)) if wanted and 1 < len(cores) == torch.get_num_threads() else None

    def place(masks: list[set[int]]) -> None:
        """Let each thread that torch calculates with run on the cores of its mask."""
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        each = call(lambda _: os.sched_setaffinity(0, masks[openmp.omp_get_thread_num()]))
        openmp.GOMP_parallel(each, None, len(masks), 0)

    with ExitStack() as afterwards:
        if hasattr(openmp, "GOMP_parallel"):
            afterwards.callback(place, [set(cores)] * len(cores))
            place([{core} for core in cores])
        yield


def forward(net: nn.Module, settings: TrainSettings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network as a training step calls it: images -> logits, float32, with the gradients of `net`."""
    run = torch.compile(net, dynamic=False) if settings.compile else net
    # channels last in memory is what tensor cores calculate with; ResNet34 in float32 is slower so
    tensor_cores = device.type == "cuda" and settings.precision != "float32"
    layout = torch.channels_last if tensor_cores else torch.preserve_format

    def logits(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            return run(images.to(memory_format=layout)).float()

    return logits


def as_cuda_graph(step: Callable[..., tuple[Tensor, ...]], batch_size: int) -> Callable[..., tuple[Tensor, ...]]:
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
