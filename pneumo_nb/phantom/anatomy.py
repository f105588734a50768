"""The patient before the beam: a chest, a medium adult's but for his `Build`, as mm of each tissue along every ray."""

from dataclasses import dataclass

import cv2
import numpy as np

from pneumo_nb.phantom.bodies import Build, pillow, samples_along, tube, tubes

# Outlines in mm, clockwise; those of one side are given for the right of the picture and mirrored.
TORSO = [(52, -310), (58, -196), (86, -176), (140, -164), (166, -140), (168, -90), (163, -40), (160, 10)]
TORSO += [(157, 80), (160, 150), (168, 310)]
ARM = [(96, -166), (150, -170), (196, -150), (216, -104), (226, -20), (236, 90), (192, 100), (180, 20)]
ARM += [(172, -40), (150, -90), (110, -110)]
LUNG = [(46, -152), (72, -140), (95, -108), (113, -62), (124, -8), (130, 45), (132, 88), (131, 116), (128, 119)]
DIAPHRAGM = [(119, 100), (98, 80), (70, 70), (44, 74), (14, 88)]
MEDIAL = [(8, 40), (8, -50), (12, -100), (24, -140)]
MEDIASTINUM = [(-20, -310), (20, -310), (21, -136), (24, -95), (25, -60), (32, -22), (30, 110), (-24, 110), (-24, 10)]
MEDIASTINUM += [(-28, -30), (-25, -75), (-26, -110), (-21, -140)]
HEART = [(10, -42), (34, -28), (52, 0), (72, 38), (84, 72), (76, 104), (20, 112), (-26, 100), (-42, 70)]
HEART += [(-40, 34), (-26, 0)]
AORTIC_KNOB, AORTIC_KNOB_MM = (22, -68), 17
SCAPULA = [(104, -136), (160, -132), (158, -112), (140, -72), (128, -16), (119, -14), (110, -60)]
CLAVICLE = [(15, -122), (40, -131), (75, -141), (112, -158), (150, -168)]
HUMERUS = [(176, -146), (186, -118), (192, -60), (200, 10), (206, 80)]
BREAST = [(40, 20), (92, -20), (140, 0), (158, 50), (146, 92), (114, 108), (76, 104), (48, 80)]
SPINE_MM = ([15, 18, 24, 28], [13, 15.5, 18, 21], [3, 3.5, 5, 8])  # height, half width and gap, from the neck down
FINEST_VESSEL_MM = 0.55
STOMACH = [(40, 100), (66, 92), (90, 104), (84, 124), (56, 128), (42, 118)]


@dataclass(frozen=True)
class Chest:
    """Path lengths in mm on the grid, each (rows, columns) of float32; the tissues of a ray add up to its way."""

    soft: np.ndarray  # muscle, heart, liver, blood outside the lungs
    fat: np.ndarray
    bone: np.ndarray  # as compact bone
    blood: np.ndarray  # in the vessels of the lungs
    lung: np.ndarray  # (2, rows, columns): aerated, on the left and on the right of the picture
    build: Build


def chest(rng: np.random.Generator, grid_mm: float = 0.65) -> Chest:
    """One patient of the population; the generator alone decides who, `grid_mm` only how finely he is drawn."""
    build, grain = Build.draw(rng, grid_mm), rng.spawn(1)[0]
    trunk = _trunk(build, rng)
    heart = _heart_and_mediastinum(build, rng)
    lung = np.stack([np.maximum(_lung(build, side, rng) - heart, 0) for side in (-1, 1)])
    bone = np.minimum(_bones(build, rng), trunk)
    blood = sum(_vessels(build, side, rng) for side in (-1, 1))
    aerated = lung.sum(0)
    blood = np.minimum(blood + _veil(build, grain) * np.sqrt(aerated / 100), 0.6 * aerated)
    rest = np.maximum(trunk - np.maximum(aerated, _air(build, rng)) - bone, 0)
    parts = (rest * np.float32(1 - build.fat), rest * np.float32(build.fat), bone, blood)
    return Chest(*(cv2.GaussianBlur(part, (0, 0), 0.45 / grid_mm) for part in parts), lung, build)


def _varied(points, rng: np.random.Generator, mm: float) -> np.ndarray:
    """No two patients have one outline."""
    return np.asarray(points, float) + rng.normal(0, mm, (len(points), 2))


def _moved(points, x: float, y: float) -> np.ndarray:
    return np.asarray(points, float) + np.array([x, y])


def _mirrored(points, side: int) -> np.ndarray:
    return np.asarray(points, float) * (side, 1)


def _trunk(build: Build, rng: np.random.Generator) -> np.ndarray:
    """Depth of the patient: neck, shoulders, chest, abdomen, breasts, arms."""
    half = _varied(TORSO, rng, 2.5) * (1 + 0.25 * (build.thick - 1), 1)
    body = pillow(build, np.vstack([half, half[::-1] * (-1, 1)]), build.thick, 150)
    body *= build.at_heights([-215, -165, -100, 0, 90, 215], [125, 150, 200, 222, 224, 228])
    for side in (-1, 1):
        arm = pillow(build, _mirrored(_moved(_varied(ARM, rng, 3), build.arms, 0), side), 105 * build.thick, 44)
        body = (body**4 + arm**4) ** 0.25
        if build.breast:
            outline = _moved(_mirrored(_varied(BREAST, rng, 4), side), build.turn, rng.normal(4, 5))
            body += pillow(build, outline, build.breast, 45) * build.at_heights([0, 60], [0, 1])
    return body


def _lung(build: Build, side: int, rng: np.random.Generator) -> np.ndarray:
    """Depth of one lung as if there were no heart; the patient's right diaphragm stands higher."""
    bottom = _moved(DIAPHRAGM, 0, build.breath + (6 if side > 0 else -3) + rng.normal(0, 7))
    wall = _varied(LUNG, rng, 1.3) + np.interp(np.arange(len(LUNG)), [4, 7], [0, 1])[:, None] * (0, build.breath)
    dome = np.vstack([wall, _varied(bottom, rng, 1.5), MEDIAL])
    behind = np.vstack([wall[:-1], (126, 160), (14, 160), MEDIAL])  # the wall curves in; the dome cuts sharply
    shape = np.minimum(pillow(build, _mirrored(behind, side), 1.0, 40), pillow(build, _mirrored(dome, side), 1.0, 11))
    return shape * build.at_heights([-150, -100, 0, 80, 130], np.multiply([80, 130, 168, 168, 120], build.thick))


def _heart_and_mediastinum(build: Build, rng: np.random.Generator) -> np.ndarray:
    """What takes the place of lung between the lungs: heart, great vessels, the aorta down along the spine."""
    heart = _moved(_varied(HEART, rng, 2.0) * (build.heart, 1), build.turn + build.lean, 0.3 * build.breath)
    depth = pillow(build, heart, 150 * build.thick, 38)
    middle = pillow(build, _moved(_varied(MEDIASTINUM, rng, 1.5), 0.5 * build.turn, 0), 190, 24)
    depth += middle * build.at_heights([-160, -100, -30], [0.4, 0.7, 1])
    knob = _moved(AORTIC_KNOB, 0.5 * build.turn, rng.normal(0, 4))
    wide = AORTIC_KNOB_MM * rng.uniform(0.85, 1.15) * np.array([1, 1, 0.75, 0.7])
    tube(depth, build, [_moved(knob, -6, -10), knob, _moved(knob, 4, 30), (26, 20), (18, 110)], wide, flat=1.6)
    return depth


def _air(build: Build, rng: np.random.Generator) -> np.ndarray:
    """Air with no tissue in it: trachea, main bronchi, the bubble in the stomach."""
    air = np.zeros(build.grid, np.float32)
    fork = np.array([1 + 0.4 * build.turn, -52 + rng.normal(0, 4)])
    tube(air, build, [(0, -310), (1 + 0.4 * build.turn, -140), fork], 8.5)
    tube(air, build, [fork, _moved(fork, -16, 18), _moved(fork, -30, 34)], [6.5, 4])
    tube(air, build, [fork, _moved(fork, 20, 16), _moved(fork, 38, 28)], [5.5, 3.5])
    air = np.minimum(air, 17)
    if rng.random() < 0.6:
        place = _moved(_varied(STOMACH, rng, 4), 0, build.breath + rng.uniform(12, 20))
        air += pillow(build, place, rng.uniform(20, 70), 18)
    return air


def _bones(build: Build, rng: np.random.Generator) -> np.ndarray:
    """Compact bone along each ray: spine, ribs, clavicles, scapulae, humeri."""
    bone = _spine(build, rng)
    for side in (-1, 1):
        _ribs(bone, build, side, rng)
        collar = _moved(_mirrored(_varied(CLAVICLE, rng, 1.5), side), build.turn, rng.normal(0, 4))
        tube(bone, build, collar, [8, 6, 5.5, 6, 7], cortex=1.8, flat=0.9)
        blade = _mirrored(_moved(_varied(SCAPULA, rng, 2), rng.uniform(0, 18), 0), side)
        bone += pillow(build, blade, 2.5, 5)
        tube(bone, build, blade[[1, 2, 3, 4]], [4, 3, 3], cortex=1.2)
        tube(bone, build, _mirrored(_moved(HUMERUS, build.arms, 0), side), [23, 20, 12, 11, 11], cortex=2.2, flat=0.7)
    return bone * np.float32(rng.uniform(0.75, 1.15))  # from old to young


def _spine(build: Build, rng: np.random.Generator) -> np.ndarray:
    """Vertebral bodies with their end plates, pedicles and spinous processes, from the neck down."""
    bone, rims, arches = np.zeros(build.grid, np.float32), [], []
    bend, y = rng.normal(0, 3), -310.0
    while y < 300:
        tall, half, gap = (np.interp(y, [-230, -130, 100, 220], v) for v in SPINE_MM)
        x = bend * np.sin(y / 90) - 0.5 * build.turn
        body = np.array([(-1, 0), (1, 0), (0.88, 0.5), (1, 1), (-1, 1), (-0.88, 0.5)]) * (half, tall) + (x, y)
        bone += pillow(build, body, 9.5, 3, smooth=False)
        rims.append(samples_along(build, np.vstack([body, body[:1]]), 1.0))
        pedicles = [(x + 0.62 * beside, 0.25, 0.55, 3.0) for beside in (-half, half)]
        for at, top, end, radius in [(x, 0.7, 1.15, [3.2, 2.4]), *pedicles]:
            arches.append(samples_along(build, np.array([(at, y + top * tall), (at, y + end * tall)]), radius))
        y += tall + gap
    tubes(bone, build, rims)
    tubes(bone, build, arches, cortex=1.1, flat=1.8)
    return bone


def _ribs(bone: np.ndarray, build: Build, side: int, rng: np.random.Generator) -> None:
    """Ribs 1 to 10 of one side: hoops around the chest, high at the spine, low in front, seen from behind."""
    slope = 1 + rng.normal(0, 0.12) - 0.01 * build.breath
    for number in range(10):
        top = -150 + 235 * (number / 9) ** 0.92 + rng.normal(0, 1.0)
        reach = np.interp(number, [0, 1, 2, 4, 7, 9], [58, 88, 106, 124, 136, 138])
        drop = np.interp(number, [0, 1, 4, 9], [34, 52, 82, 90]) * slope
        deep = np.interp(number, [0, 4, 9], [40, 85, 100])
        end = np.radians(np.interp(number, [0, 5, 9], [152, 138, 112]) + rng.normal(0, 3))
        turn = np.linspace(0.14, end, 60)  # around the chest: 0 at the spine, 90 degrees at the side
        x = reach * np.sin(turn) ** 0.9 + np.maximum(turn - np.pi / 2, 0) * side * build.turn
        y = top - 7 * np.sin(np.minimum(2.4 * turn, np.pi)) + drop * (1 - np.cos(turn)) / 2
        seen = np.hypot(np.gradient(x), np.gradient(y))
        stretch = np.minimum(np.hypot(seen, np.gradient(deep * np.cos(turn))) / seen, 2.2)
        high = 6.2 * np.interp(turn / end, [0, 0.2, 0.6, 0.93, 1], [0.8, 1, 0.95, 1.15, 1.0])
        line = samples_along(build, _mirrored(np.stack([x, y], 1), side), high, stretch)
        tubes(bone, build, [line], cortex=1.1, flat=0.5)


def _vessels(build: Build, side: int, rng: np.random.Generator) -> np.ndarray:
    """The pulmonary vessels of one side: trees that leave the hilum and taper as they fork."""
    blood, full = np.zeros(build.grid, np.float32), rng.uniform(0.85, 1.2)
    hilum = np.array([side * 30 + 0.4 * build.turn, -22 if side > 0 else -12])
    artery = [_moved(hilum, 0, -8), _moved(hilum, side * 8, 8), _moved(hilum, side * 13, 30)]
    tube(blood, build, artery, np.array([10, 11, 7]) * full)
    degrees = np.array([-78, -52, -28, -5, 18, 38, 55, 72])
    ahead = np.radians(degrees + rng.normal(0, 7, 8))
    start = hilum + np.stack([side * rng.uniform(0, 9, 8), np.clip(degrees, -14, 26) + rng.normal(0, 2, 8)], 1)
    radius = full * rng.uniform(2.8, 4.4, 8)
    while len(radius):  # one generation at a time
        samples, start, ahead, radius = _generation(build, side, start, ahead, radius, rng)
        tubes(blood, build, [samples])
        fine = radius < FINEST_VESSEL_MM
        start, ahead, radius = start[~fine], ahead[~fine], radius[~fine]
    return blood


def _generation(build: Build, side: int, start, ahead, radius, rng: np.random.Generator) -> tuple:
    """Vessels that run on from `start` (n, 2) in mm: their samples, and start, angle and radius of their branches.

    Murray's law: the cubes of the radii of two branches add up to that of their stem.
    """
    n = len(radius)
    turns = ahead[:, None] + np.cumsum(rng.normal(0, 0.13, (n, 4)), axis=1)
    length = 7.5 * radius + rng.uniform(4, 14, n)
    steps = np.stack([side * np.cos(turns), np.sin(turns)], 2) * length[:, None, None] / 4
    corners = start[:, None] + np.concatenate([np.zeros((n, 1, 2)), np.cumsum(steps, 1)], axis=1)
    at = np.linspace(0, 4, int(length.max() / build.grid_mm) + 2)
    before = np.minimum(at.astype(int), 3)
    place = corners[:, before] + (at - before)[:, None] * (corners[:, before + 1] - corners[:, before])
    along = build.to_grid(steps[:, before].reshape(-1, 2)) - build.to_grid([(0, 0)])
    along /= np.hypot(*along.T)[:, None]
    thick = radius[:, None] * (1 - 0.14 * at / 4) / build.grid_mm
    deep = np.repeat(rng.uniform(1.0, 1.5, n), len(at))
    samples = np.column_stack([build.to_grid(place.reshape(-1, 2)), along, thick.ravel(), deep]).astype(np.float32)
    share = rng.uniform(0.35, 0.65, n)
    bend = rng.uniform(0.15, 0.6, (2, n)) * [[1], [-1]]
    children = 0.86 * radius * np.stack([share, 1 - share]) ** (1 / 3)
    return samples, np.tile(corners[:, -1], (2, 1)), (turns[:, -1] + bend).ravel(), children.ravel()


def _veil(build: Build, rng: np.random.Generator) -> np.ndarray:
    """Vessels and septa too fine to draw one by one: mm of blood, uneven on a scale of a few mm, stronger in some."""
    grain, strength = np.zeros(build.grid, np.float32), rng.uniform(0.3, 1.0)
    for mm in (0.8, 1.8, 4.0):
        noise = cv2.GaussianBlur(rng.standard_normal(build.grid, np.float32), (0, 0), max(mm / build.grid_mm, 0.5))
        grain += noise / noise.std()
    return np.maximum(strength * grain + 3.0, 0)
