import ctypes
import re
import subprocess
import sys

import psutil
import pytest
import torch
import toy

from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import loop, machine, models

CPU = torch.device("cpu")
SMALL = {"model": "densenet", "depth": 13, "blocks": 2, "bottleneck": False, "image_size": 64, "batch_size": 8}


def network(**settings):
    wanted = TrainSettings.of(**(SMALL | settings))
    return wanted, machine.in_place(models.build(**wanted.architecture()))


def estimate(**settings):
    wanted, net = network(**settings)
    return machine._dry_run(wanted, net, wanted.batch_size, training=True)


def measured(**settings):
    """Most bytes alive at once in a real step: torch's own count of what it takes and gives back."""
    wanted, net = network(**settings)
    images = torch.rand(wanted.batch_size, 3, wanted.image_size, wanted.image_size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        net(images).sum().backward()
    now = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return images.nbytes + most


@pytest.mark.parametrize("settings", [{}, {"model": "resnet34"}, {"checkpointing": True}])
def test_the_estimate_is_what_a_step_takes(settings):
    assert estimate(**settings) == pytest.approx(measured(**settings), rel=0.15)


def test_the_estimate_grows_with_images_and_shrinks_with_checkpointing():
    assert estimate(batch_size=16) == pytest.approx(2 * estimate(), rel=0.1)
    assert estimate(image_size=128) == pytest.approx(4 * estimate(), rel=0.1)
    assert estimate(checkpointing=True) < 0.7 * estimate()


def test_what_cannot_fit_is_refused_with_settings_that_would(monkeypatch):
    wanted, net = network(batch_size=64)
    room = estimate(batch_size=64) // 3
    monkeypatch.setattr(machine, "free", lambda device: room)
    with pytest.raises(
        MemoryError, match=r"image_size = 64 and batch_size = 64 needs about .* GiB are free"
    ) as refused:
        machine.refuse_too_large(wanted, net, CPU, 64, 16)
    for name, value in re.findall(r"(batch_size|image_size) = (\d+)", str(refused.value))[2:]:
        fits = wanted.varied(**{name: value})
        assert getattr(fits, name) < getattr(wanted, name)
        machine.refuse_too_large(fits, net, CPU, fits.batch_size, 16)
    monkeypatch.setattr(machine, "free", lambda device: 1000)
    with pytest.raises(MemoryError, match="neither fewer nor smaller images would fit"):
        machine.refuse_too_large(wanted, net, CPU, 64, 16)


def test_a_dataset_that_cannot_be_held_is_refused_before_it_is_read(home, monkeypatch):
    name = toy.prepared()
    monkeypatch.setattr(machine, "free", lambda device: 24 * 100 * 100)
    with pytest.raises(MemoryError, match=r"24 radiographs at image_size = 128 take .*: image_size = 100 would fit"):
        toy.load(name, 128)
    assert toy.load(name, 100).images.shape == (24, 1, 100, 100)


def test_the_smallest_share_of_the_containers_around_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    assert machine.free(CPU) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    job, step = tmp_path / "slurm" / "job", tmp_path / "slurm" / "job" / "step"
    step.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/slurm/job/step\n")
    for folder, most in ((step, "max"), (job, "1300"), (tmp_path, str(10**15))):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text("400\n")
        (folder / "memory.stat").write_text("anon 300\nactive_file 60\ninactive_file 40\n")
    assert machine.free(CPU) == 1000
    (job / "memory.max").write_text("max\n")
    assert machine.free(CPU) > 10**6


@pytest.mark.skipif(not machine.STATUS.is_file(), reason="/proc is Linux's")
def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it():
    idle, code = (
        machine.peak_mib(CPU),
        "import torch; from pneumo_nb.train import machine; print(machine.peak_mib(torch.device('cpu')))",
    )
    held = bytearray(b"x" * 2**30)
    young = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 50 < float(young.stdout) < len(held) / 2**20 < machine.peak_mib(CPU)
    del held
    assert machine.peak_mib(CPU) > idle + 500


TRAINING = """
import sys
import torch
from pneumo_nb.train import dataset, loop, machine, models
from pneumo_nb.settings import TrainSettings

cpu = torch.device("cpu")
settings = TrainSettings.of(model="densenet", depth=23, blocks=2, image_size=192, epochs=1)
data = dataset.load("toy", settings)
net = machine.in_place(models.build(**settings.architecture()))
needed = machine.BESIDE_TENSORS["cpu"] * machine._dry_run(settings, net, settings.batch_size, training=True)
machine.free = lambda device: float(sys.argv[1]) * needed
before = machine.peak_mib(cpu)
loop.fit(settings, data, cpu, progress=False)
print((machine.peak_mib(cpu) - before) * 2**20 / needed)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="memory is given back with glibc alone")
def test_where_memory_is_short_a_training_takes_what_was_counted_and_else_keeps_what_it_had(home):
    toy.prepared(images=12)
    short, ample = (
        float(subprocess.run([sys.executable, "-c", TRAINING, room], check=True, capture_output=True, text=True).stdout)
        for room in ("1.5", "50")
    )
    assert 0.5 < short < 1.05 < ample


@pytest.mark.parametrize("side", [16, 96, 224, 672, 5000])
def test_the_larger_the_radiographs_the_fewer_are_evaluated_at_once(side):
    on_cpu, on_gpu = machine.at_once(side, CPU), machine.at_once(side, torch.device("cuda"))
    assert 1 <= on_cpu <= on_gpu <= 16
    assert machine.at_once(2 * side, CPU) == max(1, on_cpu // 4) or on_cpu == 16


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA\nout"), MemoryError(), RuntimeError("can't allocate memory")], ids=type
)
def test_memory_that_runs_out_in_mid_run_is_said_in_one_line(home, monkeypatch, error):
    monkeypatch.setattr(models, "build", toy.build)
    data = toy.load(toy.prepared())

    def full(*_):
        raise error

    monkeypatch.setattr(loop.losses, "balanced_loss", full)
    settings = TrainSettings.of(image_size=32, channels=1, epochs=1)
    with pytest.raises(MemoryError, match="memory ran out while training resnet34: lower batch_size = 2") as said:
        loop.fit(settings, data, CPU, progress=False)
    assert "\n" not in str(said.value) and said.value.__context__.__traceback__ is None


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="another"), machine.shortage_named(TrainSettings(), CPU):
        raise RuntimeError("another")
