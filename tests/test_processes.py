import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pneumo_nb.processes import Limits, Lost, cores, refuse_count, spread

LIMITS = Limits(seconds=1, patience=2, memory=300_000_000)


def act(task: str) -> str:
    """What a decoder may do to the process it runs in."""
    if task == "crash":
        ctypes.string_at(0)
    if task == "leave":
        os._exit(3)
    if task == "work for ever":
        while True:
            pass
    if task == "wait for ever":
        time.sleep(1000)
    if task == "swell":
        return str(len(bytes(10**9)))
    if task == "swell unseen":
        ctypes.CDLL(None).malloc.restype = ctypes.c_void_p
        ctypes.memset(ctypes.CDLL(None).malloc(ctypes.c_size_t(10**9)), 1, 10**9)
    if task == "fill the disk":
        raise OSError(28, "No space left on device")
    if task == "print":
        os.write(1, b"MILLER")
        os.write(2, b"MILLER")
    return task.upper()


def die_once(folder: Path, task: str) -> str:
    try:
        (folder / task).touch(exist_ok=False)
    except FileExistsError:
        return task
    os.kill(os.getpid(), signal.SIGKILL)


REASONS = {
    "crash": "ended its process (SIGSEGV)",
    "leave": "ended its process (exit code 3)",
    "work for ever": "it took more than",
    "wait for ever": "more than 2 seconds",
    "swell": "more than 0.3 GB of memory",
    "swell unseen": "ended its process (SIGSEGV)",
}


def test_what_ends_a_process_costs_its_own_task_only():
    tasks = [name for bad in REASONS for name in (f"good before {bad}", bad, f"good after {bad}")]
    found = dict(spread(act, tasks, workers=2, limits=LIMITS))
    assert sorted(found) == sorted(tasks)
    for task, result in found.items():
        if task in REASONS:
            assert isinstance(result, Lost) and REASONS[task] in result.reason, task
        else:
            assert result == task.upper()


def test_a_process_ended_from_outside_costs_nothing(tmp_path):
    assert dict(spread(partial(die_once, tmp_path), "abcdef", workers=2)) == {letter: letter for letter in "abcdef"}


def test_an_error_is_raised_and_all_processes_end():
    before = children()
    with pytest.raises(OSError, match="No space left"):
        list(spread(act, ["a", "fill the disk", *"bcdefgh"], workers=2))
    assert children() <= before


def test_leaving_early_ends_all_processes():
    before = children()
    for task, result in spread(act, "abcdefgh", workers=2):
        assert result == task.upper()
        break
    assert children() <= before


def children() -> set[int]:
    """Processes that run tasks of this one."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()[1:]]
    servers = {pid for pid, parent, command in rows if parent == str(os.getpid()) and "forkserver" in command}
    return {int(pid) for pid, parent, _ in rows if parent in servers}


def test_few_tasks_are_ever_waiting():
    asked, done = [], 0
    for _ in spread(act, (asked.append(letter) or letter for letter in "abcdefghijkl"), workers=2):
        done += 1
        assert len(asked) <= done + 3
    assert done == 12


def test_no_tasks_no_results():
    assert list(spread(act, [], workers=2)) == []


SCRIPT = """
import sys
from pathlib import Path
from test_processes import act
from pneumo_nb import paths
from pneumo_nb.processes import spread
{guard}
    for task, result in spread(act, sys.argv[1:], workers=1):
        print(task, result, flush=True)
"""


def start(tmp_path, *tasks, guard="if __name__ == '__main__':", **more) -> subprocess.Popen:
    (tmp_path / "script.py").write_text(SCRIPT.format(guard=guard))
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, str(tmp_path / "script.py"), *tasks]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def test_what_a_task_prints_is_not_seen(tmp_path):
    assert start(tmp_path, "print").communicate(timeout=60) == ("print PRINT\n", "")


def test_a_killed_parent_leaves_no_process_behind(tmp_path):
    run = start(tmp_path, "first", "wait for ever", start_new_session=True)
    assert run.stdout.readline() == "first FIRST\n"
    run.kill()
    run.wait()
    for _ in range(200):
        if not group(run.pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {group(run.pid)}")


def group(leader: int) -> list[str]:
    found = subprocess.run(["ps", "-eo", "sid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()[1:]]
    return [command for session, state, command in rows if session == str(leader) and not state.startswith("Z")]


@pytest.mark.parametrize("guard", ["if True:", "with paths.alone(Path(sys.path[0]) / 'lock', 'the work'):"])
def test_a_script_without_a_guard_is_told_so(tmp_path, guard):
    printed, errors = start(tmp_path, "a", guard=guard).communicate(timeout=60)
    assert printed == "" and "a script needs `if __name__ == '__main__':`" in errors and "waiting" not in errors


@pytest.mark.parametrize("count", [0, -1, 8 * cores() + 1, 100_000])
def test_a_number_of_processes_that_cannot_help_is_refused(count):
    refuse_count("workers", 1)
    refuse_count("workers", 8 * cores())
    with pytest.raises(
        ValueError, match=f"workers = {count}: 1 to {8 * cores()} processes are right on {cores()} cores"
    ):
        refuse_count("workers", count)
