"""Bodies are as thick as their geometry says, wherever the grid lies, and builds spread as those of people."""

import numpy as np
import pytest

from pneumo_nb.phantom import bodies


def build(grid_mm: float = 0.65, **changes) -> bodies.Build:
    """The medium adult, so that millimetres of the body are millimetres of the field."""
    medium = {"wide": 1, "long": 1, "thick": 1, "breath": 0, "tilt": 0, "turn": 0, "shift": (0, 0), "breast": 0}
    medium |= {"fat": 0.3, "heart": 1, "lean": 0, "uneven": 0, "arms": 0}
    return bodies.Build(**(medium | changes), grid_mm=grid_mm)


@pytest.mark.parametrize("grid_mm", [0.65, 1.6])
def test_a_ray_through_the_middle_of_a_tube_goes_through_its_diameter(grid_mm):
    path = np.zeros(build(grid_mm).grid, np.float32)
    bodies.tube(path, build(grid_mm), [(-60, 20), (60, 20)], 10)
    assert path.max() == pytest.approx(20, rel=0.02)
    section = path[:, path.shape[1] // 2].sum() * grid_mm
    assert section == pytest.approx(np.pi * 10**2, rel=0.02)


def test_a_shell_of_bone_weakens_most_near_its_edge():
    path = np.zeros(build().grid, np.float32)
    bodies.tube(path, build(), [(-60, 0), (60, 0)], 10, cortex=1.5)
    across = path[:, path.shape[1] // 2]
    assert across.max() > 1.2 * across[len(across) // 2]


def test_a_pillow_is_full_inside_and_thin_at_its_edge():
    square = [(-50, -50), (50, -50), (50, 50), (-50, 50)]
    path = bodies.pillow(build(), square, 30, 20, smooth=False)
    assert path.max() == 30 and path[path.shape[0] // 2, path.shape[1] // 2] == 30
    assert np.count_nonzero(path) * 0.65**2 == pytest.approx(100**2, rel=0.03)


def test_a_body_beyond_the_side_of_the_field_swells_from_its_own_edge():
    inside, beyond = ([(x - 60, -50), (x + 60, -50), (x + 60, 50), (x - 60, 50)] for x in (0, 208))
    whole, half = (bodies.pillow(build(), corners, 30, 60, smooth=False) for corners in (inside, beyond))
    middle = whole.shape[1] // 2
    assert half[:, -1] == pytest.approx(whole[:, middle], abs=0.5)


def test_a_curve_passes_through_its_points():
    points = [(0, 0), (10, 5), (20, -5), (40, 0)]
    assert np.allclose(bodies.curve(points)[::12], points)


def test_builds_are_drawn_by_the_generator_alone():
    once, twice = (bodies.Build.draw(np.random.default_rng(4), grid_mm) for grid_mm in (0.65, 1.6))
    assert {**vars(once), "grid_mm": 0} == {**vars(twice), "grid_mm": 0}
