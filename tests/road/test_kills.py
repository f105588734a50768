"""Twelve kills; `python tests/kills.py 300` gives more."""

import subprocess
import sys
from pathlib import Path


def test_work_that_is_killed_at_random_moments_ends_as_if_undisturbed():
    command = [sys.executable, str(Path(__file__).parents[1] / "kills.py"), "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.endswith("12 kills: nothing unreadable, nothing lost, every end the same\n")
