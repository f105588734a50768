"""What a long job has done so far, on disk: found again after a kill, and never all in memory."""

import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class Journal:
    """Entries with a position from 1 on, appended one JSON line each; read back in the order of positions.

    A line that a kill cut short counts as not written. Of two entries for one position the last counts.
    """

    def __init__(self, path: Path, positions: int):
        self._file = path.open("a+b")
        self._places = array("q", [-1]) * (positions + 1)
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._places[json.loads(line)["position"]] = end
            end += len(line)
        self._file.truncate(end)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __contains__(self, position: int) -> bool:
        return self._places[position] >= 0

    def __len__(self) -> int:
        return sum(place >= 0 for place in self._places)

    def add(self, entry: dict) -> None:
        """Append `entry`, which has a "position"; once this returns, a kill of this process cannot undo it."""
        self._places[entry["position"]] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def forget(self, position: int) -> None:
        """Take it that there is no entry for this position."""
        self._places[position] = -1

    def __iter__(self) -> Iterator[dict]:
        for place in self._places:
            if place >= 0:
                self._file.seek(place)
                yield json.loads(self._file.readline())
