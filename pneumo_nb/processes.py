"""This machine's cores and memory; tasks in child processes: one that crashes, hangs or swells costs itself only."""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # the numbers of mallopt(3)
MOST = 8  # processes for each core: still more would only fill the memory
OUT_OF_MEMORY = 77  # exit code of a process whose task asked for more than it may have


@dataclass(frozen=True)
class Limits:
    """What one task may use."""

    seconds: int = 30  # of a core's time: a busy machine does not make a file hang
    patience: int = 180  # seconds by the clock, for a task that waits instead of working
    memory: int = 1_500_000_000  # bytes beyond what the process held before its first task (Linux)


@dataclass(frozen=True)
class Lost:
    """What stands in the place of a result: why there is none."""

    reason: str


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Any = None
    tries: int = 0  # of its task; 0 without one


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_count(name: str, wanted: int) -> None:
    """A ValueError unless so many processes can be of use on this machine."""
    most = MOST * cores()
    if not 1 <= wanted <= most:
        raise ValueError(f"{name} = {wanted}: 1 to {most} processes are right on {cores()} cores")


def keep_memory(wanted: bool) -> None:
    """Let this process keep the memory that it frees, or give all but small blocks back at once.

    Kept blocks need not be zeroed again, but fall to pieces, to two or three times what is in use. Of itself glibc
    keeps blocks of up to 32 MiB; other C libraries are left as they are.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    tell(MMAP_THRESHOLD, 2**20)
    tell(MMAP_MAX, 0 if wanted else 2**16)
    tell(TRIM_THRESHOLD, -1 if wanted else 2**26)


def spread(
    function: Callable, tasks: Iterable[Any], workers: int, limits: Limits = Limits(), imports: Iterable[str] = ()
) -> Iterator[tuple[Any, Any]]:
    """Each task with what `function` returned for it, or with Lost, in the order in which they end.

    A task whose process dies gets a second, fresh process, so that what happens to a process from outside costs
    nothing; when that one dies too, the task is Lost. Every process has one task at a time, and memory does not grow
    with the number of tasks. `imports` are modules that processes find loaded, so that they start within milliseconds.
    What `function` raises is raised here. ChildProcessError: no process can be started.
    """
    multiprocessing.set_forkserver_preload(list(imports))
    fresh, again, crew = iter(tasks), deque(), {}
    try:
        for _ in range(workers):
            crew |= _start(function, limits)
        while crew:
            for pipe in wait(list(crew)):
                worker = crew[pipe]
                try:
                    result, error = pipe.recv()
                except (EOFError, OSError):
                    del crew[pipe]
                    result, error = _bury(worker, limits), None
                    crew |= _start(function, limits)
                    if worker.tries == 1:
                        again.append(worker.task)
                        continue
                if error is not None:
                    raise error
                ended = [(worker.task, result)] if worker.tries else []
                if pipe in crew:
                    second = again and not worker.tries  # a fresh process, of which one was started for each death
                    worker.task, worker.tries = (again.popleft(), 2) if second else (next(fresh, None), 1)
                    if worker.task is None:
                        _dismiss(crew.pop(pipe))
                    else:
                        with suppress(OSError):  # it died meanwhile: the next round finds the end of its pipe
                            pipe.send(worker.task)
                yield from ended
    finally:
        for worker in crew.values():
            worker.process.kill()
            _dismiss(worker)


def _start(function: Callable, limits: Limits) -> dict[Connection, _Worker]:
    context = multiprocessing.get_context("forkserver")  # a fork of this process, which may have threads, might hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, limits), daemon=True)
    process.start()
    theirs.close()
    return {ours: _Worker(process, ours)}


def _dismiss(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.join()
    worker.process.close()


def _bury(worker: _Worker, limits: Limits) -> Lost:
    """Why a process ended."""
    worker.process.join()
    code = worker.process.exitcode
    _dismiss(worker)
    if worker.tries == 0:
        raise ChildProcessError("no process can be started (a script needs `if __name__ == '__main__':` around this)")
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return Lost(f"it took more than {limits.seconds if code == -signal.SIGPROF else limits.patience} seconds")
    if code == OUT_OF_MEMORY:
        return Lost(f"it took more than {limits.memory / 1e9:g} GB of memory")
    return Lost(f"it ended its process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")


def _serve(pipe: Connection, function: Callable, limits: Limits) -> None:
    """Ask for tasks, do them, and send (result, error), until there are no more."""
    _confine(limits)
    answer = None, None
    while True:
        try:
            pipe.send(answer)
            task = pipe.recv()
        except (EOFError, OSError):
            return
        # The kernel keeps these times: it needs neither Python nor a parent to end a process that hangs.
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        signal.alarm(limits.patience)
        try:
            answer = function(task), None
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:
            answer = None, error
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def _confine(limits: Limits) -> None:
    """Bound the memory; write no core, which would hold pixels; be silent, since decoders print what they read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=leave_with_parent, daemon=True).start()
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_memory(True)
    if sys.platform == "linux":  # elsewhere the limit is not kept, or the size cannot be read
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + limits.memory
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def leave_with_parent() -> None:
    """Wait, in a thread of a child process, for the end of its parent: a killed run leaves no process behind."""
    multiprocessing.parent_process().join()
    os._exit(1)
