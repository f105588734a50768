"""From millimetres of tissue to 12-bit values: what the beam loses on its way, and what the detector makes of it.

The beam is weakened by Beer and Lambert's law, scattered, blurred and counted in quanta; the detector answers with a
curve over the logarithm, in 12 bits, white where the patient is dense.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pneumo_nb.phantom.anatomy import Chest

# Linear attenuation per mm at 60 keV, the mean of a filtered 120 kVp beam: NIST XCOM mass coefficients (cm2/g) of the
# ICRU-44 tissues, times density (g/cm3), over 10.
PER_MM = {"soft": 0.02048 * 1.06, "fat": 0.01974 * 0.95, "bone": 0.03148 * 1.92, "blood": 0.02057 * 1.06}
LUNG_PER_MM = 0.02053 * 0.26
QUANTA_PER_MM2 = 45_000  # detected behind the patient: 2.5 uGy of 30,000 quanta / mm2 / uGy, of which 60 % count
WHITE = 4095  # 12 bits


@dataclass(frozen=True)
class Picture:
    """Where millimetres in the plane of the detector, and the grid of the bodies, lie among the pixels."""

    width: int
    height: int
    spacing: float  # mm a pixel
    grid_mm: float

    def enlarged(self, grid: np.ndarray, interpolation: int) -> np.ndarray:
        """A map on the grid -> (height, width) of float32."""
        factor = self.spacing / self.grid_mm
        if factor > 1:
            grid = cv2.GaussianBlur(grid, (0, 0), 0.45 * factor)
        shift = [(np.array(grid.shape[::-1]) - 1) / 2 - factor * (np.array([self.width, self.height]) - 1) / 2]
        matrix = np.hstack([np.eye(2) * factor, np.transpose(shift)])
        size, edge = (self.width, self.height), cv2.BORDER_REPLICATE
        return cv2.warpAffine(grid, matrix, size, flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=edge)

    def to_pixels(self, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Grid columns and rows (n, 2) -> pixel columns and rows."""
        middle, centre = (np.array(shape[::-1]) - 1) / 2, (np.array([self.width, self.height]) - 1) / 2
        return (cells - middle) * self.grid_mm / self.spacing + centre

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns within `reach` pixels of a place."""

        def span(at: float, side: int) -> slice:
            return slice(max(int(at - reach), 0), max(min(int(at + reach) + 2, side), 0))

        return span(y, self.height), span(x, self.width)


def attenuation(chest: Chest) -> np.ndarray:
    """Sum of coefficient times path length of all tissues, on the grid; blood takes the place of lung."""
    total = (chest.lung.sum(0) - chest.blood) * np.float32(LUNG_PER_MM)
    for tissue, per_mm in PER_MM.items():
        total += getattr(chest, tissue) * np.float32(per_mm)
    return total


def detected(picture: Picture, weakened: np.ndarray, beam, quanta) -> np.ndarray:
    """Attenuation (height, width), which is changed -> 12-bit values, uint16, white where dense."""
    _collimate_and_mark(picture, weakened, beam)
    primary = np.exp(-weakened)
    cv2.GaussianBlur(primary, (0, 0), max(0.18 / picture.spacing, 0.5), dst=primary)  # focal spot and detector
    small, depth = (cv2.resize(full, (128, 128), interpolation=cv2.INTER_AREA) for full in (primary, weakened))
    # behind a grid scatter grows with what the beam went through, and strays over some 30 mm
    scatter = cv2.GaussianBlur(small * np.minimum(depth, 6), (0, 0), 9, borderType=cv2.BORDER_REPLICATE)
    scatter *= np.float32(beam.uniform(0.08, 0.2))
    primary += cv2.resize(scatter, (picture.width, picture.height), interpolation=cv2.INTER_LINEAR)
    behind = float(np.median((small + scatter)[16:112, 16:112]))  # the detector scales itself to the patient
    counted = QUANTA_PER_MM2 * picture.spacing**2 / behind * beam.lognormal(0, 0.5)
    noise = quanta.standard_normal(primary.shape, np.float32)
    noise *= np.sqrt(primary / np.float32(counted))  # Poisson, as a Gaussian: there are many quanta in each pixel
    primary += noise
    np.maximum(primary, np.float32(1e-4 * behind), out=primary)
    steep, middle = 2 / beam.uniform(2.8, 4.4), beam.normal(0.4, 0.25)
    # density = ln(behind / signal). An exponential's shoulder would leave the abdomen a handful of grey levels.
    curve = cv2.log(primary * np.float32(np.exp(middle) / behind)) * np.float32(-steep)
    curve /= np.sqrt(1 + curve * curve)
    return np.rint((1 + curve) * np.float32(WHITE / 2)).astype(np.uint16)


def _collimate_and_mark(picture: Picture, weakened: np.ndarray, beam) -> None:
    """Lead: the edges of the collimator, and the letter that says which side is which."""
    height, width = weakened.shape
    left, right, top, bottom = np.round(np.maximum(beam.uniform(-30, 18, 4), 0) / picture.spacing).astype(int)
    lead, side = beam.uniform(3, 6), beam.choice([-1, 1])
    for edge in (np.s_[:top], np.s_[height - bottom :], np.s_[:, :left], np.s_[:, width - right :]):
        weakened[edge] += lead
    letter = np.zeros((64, 64), np.uint8)
    name, font = "R" if side < 0 else "L", cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(letter, name, (10, 54), font, 2.2, 255, int(beam.integers(5, 9)))
    size = max(int(beam.uniform(14, 22) / picture.spacing), 6)
    lead = cv2.resize(letter, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) * (4 / 255)
    x, y = np.array([side * beam.uniform(135, 165), beam.uniform(-195, -160)]) / picture.spacing
    patch = weakened[picture.window(x + width / 2, y + height / 2, size / 2 - 1)]
    patch += lead[: patch.shape[0], : patch.shape[1]]
