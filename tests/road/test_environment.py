import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
LOCK = (ROOT / "requirements.lock").read_text()


def locked():
    pins = re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", LOCK, flags=re.MULTILINE)
    return {canonicalize_name(name): [v for n, v in pins if n == name] for name, _ in pins}


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement):
    versions = locked()[canonicalize_name(requirement.name)]
    assert versions and all(requirement.specifier.contains(version) for version in versions)


def test_every_direct_dependency_has_a_reason_in_environment_yml_and_nothing_else_has():
    reasons = re.findall(r"^#   ([A-Za-z0-9_-]+): \S+", (ROOT / "environment.yml").read_text(), flags=re.MULTILINE)
    assert sorted(reasons) == sorted(requirement.name for requirement in DIRECT)


def test_environment_yml_installs_the_lock_on_the_same_pythons():
    text = (ROOT / "environment.yml").read_text()
    assert f"python {PROJECT['requires-python']}" in text and "-r requirements.lock" in text


def test_the_lock_holds_hashes_and_no_address():
    assert "://" not in LOCK and "--index" not in LOCK and "--find-links" not in LOCK
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK.strip())
    assert len(blocks) > 100 and all("--hash=sha256:" in block for block in blocks)


def test_opencv_is_there_once_and_headless():
    assert [name for name in locked() if name.startswith("opencv")] == ["opencv-python-headless"]


def test_every_test_that_the_table_of_faults_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 30 and named <= there
