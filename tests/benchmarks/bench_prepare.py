"""How fast preparing is, against what one would write by hand; run it as `python tests/benchmarks/bench_prepare.py`.

1. Radiographs of 2776 x 2876 pixels at 12 bits, to equalised JPGs of a quarter: this software against (i) a loop with
   pydicom and Pillow and (ii) DCMTK's dcmj2pnm, then equalising and downsizing by OpenCV; in turns, on one machine.
2. Where the time of one such file goes.
3. Many small files, 1 % of them bad: does each have its row, do memory and rate stay what they were?
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image, ImageOps
from pydicom.pixels import apply_modality_lut, apply_voi_lut

sys.path.insert(0, str(Path(__file__).parent.parent))
from sources import radiograph, save

from pneumo_nb import paths, prepare, processes
from pneumo_nb.prepare import convert, dicom, images
from pneumo_nb.settings import PrepareSettings

SIZE = (2876, 2776)  # rows, columns: four times the paper's prepared images
WINDOW = {"WindowCenter": 2048, "WindowWidth": 3600}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100, help="large radiographs, of which a quarter differ")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way gets its turn")
    parser.add_argument("--small", type=int, default=10_000, help="small radiographs; 0 leaves them out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PNEUMO_NB_HOME"] = folder
        large = Path(folder) / "large"
        for number in range(options.files):
            if number % 4:
                (large / f"{number}.dcm").hardlink_to(large / f"{number // 4 * 4}.dcm")
            else:
                save(radiograph(chest(number, SIZE), **WINDOW, PatientID=f"P{number}"), large / f"{number}.dcm")
        compare(large, options.rounds)
        stages(large / "0.dcm")
        if options.small:
            many_small(Path(folder) / "small", options.small)


def chest(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Stored values of 12 bits with large shapes and fine noise."""
    random = np.random.default_rng(seed)
    shapes = cv2.resize(random.normal(2000, 900, (12, 12)), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(shapes + random.normal(0, 60, shape), 0, 4095).astype(np.uint16)


def by_pydicom_and_pillow(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        header = pydicom.dcmread(path)
        values = apply_voi_lut(apply_modality_lut(header.pixel_array, header), header).astype(np.float64)
        values = (values - values.min()) / (values.max() - values.min()) * 255
        if header.PhotometricInterpretation == "MONOCHROME1":
            values = 255 - values
        picture = ImageOps.equalize(Image.fromarray(values.astype(np.uint8)))
        picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BOX).save(
            folder / f"{path.stem}.jpg", quality=95
        )


def by_dcmtk_and_opencv(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        rendered = folder / "rendered.pgm"
        subprocess.run(["dcmj2pnm", "-O", "+op", "+Wi", "1", path, rendered], check=True)
        picture = cv2.equalizeHist(cv2.imread(str(rendered), cv2.IMREAD_UNCHANGED))
        small = cv2.resize(picture, (picture.shape[1] // 4, picture.shape[0] // 4), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{path.stem}.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 95])


def by_this_software(workers: int) -> Callable[[Path, Path], None]:
    return lambda source, folder: prepare.prepare(source, None, folder.name, progress=False, workers=workers)


def compare(source: Path, rounds: int) -> None:
    """Print the rates of all ways, each the best of its turns, and the two ratios that count."""
    cv2.setNumThreads(1)
    cores = processes.cores()
    ways = {"this software, 1 process": by_this_software(1), "this software, 2 processes": by_this_software(2)}
    ways["pydicom and Pillow"] = by_pydicom_and_pillow
    if shutil.which("dcmj2pnm"):
        ways["dcmj2pnm and OpenCV"] = by_dcmtk_and_opencv
    files = len(list(source.iterdir()))
    best = dict.fromkeys(ways, 0.0)
    prepare.prepare(source, None, "warm", progress=False, workers=2)  # so that all files are in memory
    for turn in range(rounds):
        for number, (name, way) in enumerate(ways.items()):
            folder = paths.prepared(f"way-{turn}-{number}")
            if way in (by_pydicom_and_pillow, by_dcmtk_and_opencv):
                folder.mkdir(parents=True)
            start = time.perf_counter()
            way(source, folder)
            best[name] = max(best[name], files / (time.perf_counter() - start))
            shutil.rmtree(folder)
    print(f"{files} radiographs of {SIZE[1]} x {SIZE[0]}, 12 bits; {cores} cores; best of {rounds} turns")
    for name, rate in best.items():
        print(f"  {name:28} {rate:7.2f} files/s")
    one, two = best["this software, 1 process"], best["this software, 2 processes"]
    print(f"  on two cores, against pydicom and Pillow: {two / best['pydicom and Pillow']:.1f} times as fast (goal: 5)")
    if "dcmj2pnm and OpenCV" in best:
        print(f"  on one core, against dcmj2pnm: {one / best['dcmj2pnm and OpenCV']:.1f} times as fast (goal: 1)")


def stages(path: Path) -> None:
    """Print where the time of one file goes, the best of nine."""
    settings = PrepareSettings()
    _, content = images.load(path)
    header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
    picture, _ = dicom.read(content)
    even = convert.equalise(picture)
    small = convert.refine(picture, settings)
    steps = {
        "read the file": lambda: images.load(path),
        "hash it": lambda: convert.hashlib.sha256(content).hexdigest(),
        "decode the pixels": lambda: pydicom.pixels.pixel_array(header),
        "parse, check, decode, render": lambda: dicom.read(content),
        "equalise": lambda: convert.equalise(picture),
        "downsize": lambda: convert.refine(even, settings.varied(equalise="none")),
        "encode the JPG": lambda: images.encode(small, "jpg"),
        "write it": lambda: (path.parent / "written").write_bytes(images.encode(small, "jpg")),
    }
    print("milliseconds of one file, one core")
    for name, step in steps.items():
        times = []
        for _ in range(9):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(f"  {name:28} {1000 * min(times):6.1f}")
    (path.parent / "written").unlink()


def many_small(source: Path, files: int) -> None:
    """Print counts, and for each tenth of the work the rate and the memory of all processes."""
    content = [
        save(radiograph(chest(n, (128, 128)), **WINDOW, PatientID=""), source / "x").read_bytes() for n in range(50)
    ]
    (source / "x").unlink()
    for number in range(files):
        bad = number % 100 == 7
        path = source / f"{number // 1000}" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[number % 50][: 900 if bad else None])
    with watched(files) as samples:
        prepare.prepare(source, None, "small", progress=False)
    counts = prepare.read_dataset("small")[1]["counts"]
    bad = sum(number % 100 == 7 for number in range(files))
    assert (counts["found"], counts["accepted"], counts["rejected"]) == (files, files - bad, bad), counts
    print(f"{files} files of 128 x 128: {counts['accepted']} accepted, {counts['rejected']} rejected, none missing")
    print("  tenth of the work   files/s   MB in the parent   MB in all processes")
    marks = [next(s for s in samples if s[1] >= part * files / 10) for part in range(11)]
    for part, (before, after) in enumerate(pairwise(marks), start=1):
        rate = (after[1] - before[1]) / max(1e-9, after[0] - before[0])
        print(f"  {part:17} {rate:9.0f} {after[2] / 1e6:18.0f} {after[3] / 1e6:21.0f}")


@contextmanager
def watched(files: int):
    """Samples of (seconds, files done, resident bytes of this process, and of it with all that it started)."""
    samples, stop = [], threading.Event()

    def watch() -> None:
        done, journal, wait = 0, None, 0.05
        while not stop.is_set():
            journal = journal or next((p.open("rb") for p in paths.prepared().glob(".small.*.journal")), None)
            done += journal.read().count(b"\n") if journal else 0
            samples.append((time.perf_counter(), done, *memory()))
            stop.wait(wait)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        samples.append((time.perf_counter(), files, *memory()))


def memory() -> tuple[int, int]:
    """Resident bytes of this process, and of it and all its descendants (what forked ones share counts again)."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)], sizes[int(status.parent.name)] = int(fields[1]), int(fields[21])
    family, page = {os.getpid()}, os.sysconf("SC_PAGE_SIZE")
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sizes[os.getpid()] * page, sum(sizes.get(pid, 0) for pid in family) * page


if __name__ == "__main__":
    main()
