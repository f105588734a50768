"""Bodies on a grid: how one patient's build places them, and the millimetres of a body along every ray.

Coordinates are millimetres in the plane of the detector, x to the right of the picture (the patient's left), y down,
the origin in its middle. Two kinds of body are enough: a *pillow*, an outline whose thickness swells inwards as an
ellipsoid's does, and a *tube* around a curve, solid (vessel) or a shell (rib).
"""

from dataclasses import dataclass

import cv2
import numpy as np

FIELD_MM = (416.0, 431.0)  # width and height: 2776 x 2876 pixels of 0.15 mm


@dataclass(frozen=True)
class Build:
    """How one patient, standing so on one day, departs from the medium adult; positives and negatives alike."""

    wide: float  # factor on all widths
    long: float  # factor on all heights
    thick: float  # factor on the depth of the trunk
    breath: float  # mm by which the diaphragm is lower than usual
    tilt: float  # degrees in the plane of the detector
    turn: float  # mm by which what lies in front is shifted against the spine: rotation about the long axis
    shift: tuple[float, float]  # mm
    breast: float  # mm of breast tissue, 0 for none
    fat: float  # share of adipose tissue in the soft tissue of the trunk
    heart: float  # factor on the width of the heart
    lean: float  # mm by which the heart lies further to the patient's left
    uneven: float  # mm by which the walls of the chest lie further to the right of the picture: no spine is straight
    arms: float  # mm by which the arms are held away
    grid_mm: float  # of the grid that the bodies are drawn on

    @classmethod
    def draw(cls, rng: np.random.Generator, grid_mm: float) -> "Build":
        """A patient of the population that comes to this X-ray room.

        The spreads aim at 911 outlines of both lungs from JSRT, Montgomery, Shenzhen and PadChest (our measurement):
        standard deviation of height over width .10 to .12, right over left area 1.16 to 1.24 with one of .13 to .17,
        .42 to .51 of the bounding box filled. Those outlines leave the heart out, as Phantom.lungs all but does.
        """
        size = rng.normal(0, 0.04)
        return cls(
            wide=np.clip(1.10 + size + rng.normal(0, 0.08), 0.88, 1.28),
            long=np.clip(1.05 + size + rng.normal(0, 0.08), 0.84, 1.22),
            thick=np.clip(rng.normal(1.0, 0.11), 0.75, 1.25),
            breath=rng.normal(0, 9),
            tilt=rng.normal(0, 1.5),
            turn=rng.normal(0, 4),
            shift=(rng.normal(0, 4), rng.normal(4, 5)),
            breast=rng.uniform(12, 45) if rng.random() < 0.4 else 0.0,
            fat=rng.uniform(0.1, 0.5),
            heart=np.clip(rng.normal(1.0, 0.14), 0.7, 1.4),
            lean=rng.normal(12, 6),
            uneven=rng.normal(0, 5),
            arms=rng.uniform(-12, 25),
            grid_mm=grid_mm,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns that cover the field."""
        return round(FIELD_MM[1] / self.grid_mm), round(FIELD_MM[0] / self.grid_mm)

    def to_grid(self, points) -> np.ndarray:
        """Body millimetres (n, 2) -> grid columns and rows (n, 2), by the patient's size and pose."""
        angle = np.radians(self.tilt)
        turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        x, y = np.asarray(points, float).T
        x = x + self.uneven * np.minimum((x / 130) ** 2, 1.5)
        placed = np.stack([x * self.wide, y * self.long], 1) @ turned + self.shift
        return placed / self.grid_mm + (np.array(self.grid[::-1]) - 1) / 2

    def at_heights(self, heights_mm, values) -> np.ndarray:
        """Values given at heights of the body, for every row of the grid: (rows, 1)."""
        rows = (np.arange(self.grid[0]) + 0.5) * self.grid_mm - FIELD_MM[1] / 2 - self.shift[1]
        return np.interp(rows / self.long, heights_mm, values)[:, None].astype(np.float32)


def curve(points, closed: bool = False, steps: int = 12) -> np.ndarray:
    """A smooth curve through the points (Catmull-Rom), `steps` samples for each piece: (n, 2)."""
    p = np.asarray(points, float)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    pieces = b + t * (c - a) / 2 + t**2 * (a - 2.5 * b + 2 * c - d / 2) + t**3 * (3 * (b - c) + d - a) / 2
    line = pieces.transpose(1, 0, 2).reshape(-1, 2)
    return line if closed else np.vstack([line, p[-2]])


def pillow(build: Build, corners, thickness: float, rounding: float, smooth: bool = True) -> np.ndarray:
    """Path length in mm through a body with this outline, full thickness `rounding` mm inside."""
    outline = build.to_grid(curve(corners, closed=True) if smooth else corners)
    first, last = np.floor(outline.min(0)).astype(int) - 2, np.ceil(outline.max(0)).astype(int) + 3
    # Above and below the field a body goes on; at its sides it swells from its own edge, also where that is not seen.
    first[1], last[1] = np.clip((first[1], last[1]), (0, 4), (build.grid[0] - 4, build.grid[0]))
    left, right = np.clip((first[0], last[0]), 0, build.grid[1])
    inside = np.zeros((last - first)[::-1], np.uint8)
    cv2.fillPoly(inside, [np.round((outline - first) * 16).astype(np.int32)], 1, shift=4)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) * np.float32(build.grid_mm / rounding)
    path = np.zeros(build.grid, np.float32)
    swollen = thickness * np.sqrt(1 - (1 - np.minimum(depth, 1)) ** 2)
    path[first[1] : last[1], left:right] = swollen[:, left - first[0] : right - first[0]]
    return path


def tube(target: np.ndarray, build: Build, points, radius, **shape) -> None:
    """Add to `target` the path length in mm through a tube around a smooth curve; see `tubes`."""
    tubes(target, build, [samples_along(build, curve(points), radius)], **shape)


def tubes(target: np.ndarray, build: Build, lines: list, cortex: float = 0.0, flat: float = 1.0) -> None:
    """Add the path length through tubes, given as `samples_along`, that hardly cross each other.

    A `cortex` of that many mm makes them bones: shells of compact bone, with a quarter of it in their marrow. `flat` is
    their depth over their height.
    """
    samples = np.concatenate(lines)
    reach = samples[:, 4].max() + 2
    first = np.maximum(np.floor(samples[:, :2].min(0) - reach).astype(int), 0)
    last = np.minimum(np.ceil(samples[:, :2].max(0) + reach).astype(int) + 1, build.grid[::-1])
    samples = samples[np.all((samples[:, :2] >= first) & (samples[:, :2] < last - 1), axis=1)]
    if not len(samples):
        return
    samples = samples - np.array([*first, 0, 0, 0, 0], np.float32)
    row, column, nearest = _near(samples, (last - first)[::-1], reach)
    x, y, along_x, along_y, radius, stretch = samples[nearest].T
    dx, dy = column - x, row - y
    beyond = np.maximum(np.abs(dx * along_x + dy * along_y) - 1, 0)  # a tube ends with its line
    across = np.hypot(dx * along_y - dy * along_x, beyond)
    wide = np.maximum(radius, 0.8)  # thinner than the grid: as much tissue, spread over a pixel
    path = _chord(across, wide) * (radius / wide) ** 2
    if cortex:
        path = path - 0.75 * _chord(across, np.maximum(wide - cortex / build.grid_mm, 0))
    target[row + first[1], column + first[0]] += path * stretch * np.float32(flat * build.grid_mm)


def _chord(across: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return 2 * np.sqrt(np.maximum(radius**2 - across**2, 0))


def samples_along(build: Build, line: np.ndarray, radius, stretch=1.0) -> np.ndarray:
    """A sample about every pixel along a line in mm: (n, 6) of place and direction on the grid, radius and stretch.

    `radius` in mm and `stretch`, by which rays are longer where the tube runs along the beam, are given from its start
    to its end.
    """
    line = build.to_grid(line)
    way = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, way[-1], max(int(way[-1]) + 1, 3))
    place = np.stack([np.interp(at, way, line[:, 0]), np.interp(at, way, line[:, 1])])
    along = np.stack([np.gradient(place[0]), np.gradient(place[1])])
    along /= np.hypot(*along) + 1e-9
    given = [np.interp(at / way[-1], np.linspace(0, 1, np.size(v)), np.ravel(v)) for v in (radius, stretch)]
    return np.stack([*place, *along, given[0] / build.grid_mm, given[1]], axis=1).astype(np.float32)


def _near(samples: np.ndarray, shape, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the pixels within reach of any sample, and the index of the sample nearest to each."""
    column, row = np.round(samples[:, :2]).astype(int).T
    away = np.ones(shape, np.uint8)
    away[row, column] = 0
    distance, marks = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    sample = np.zeros(marks.max() + 1, int)
    sample[marks[row, column]] = np.arange(len(samples))
    row, column = np.nonzero(distance < reach)
    return row, column, sample[marks[row, column]]
