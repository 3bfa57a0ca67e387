"""What a child prints: drained as it comes, passed on to the engine's own log, and its last lines kept.

Nothing of it is unbounded: long lines are cut, and of a flood only so many lines a second are passed on. A child never
waits long for its reader, and the engine never for a child.
"""

import asyncio
import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 4096
"""What is longer is cut."""
MAX_LINES_PER_SECOND = 500
"""What is more is counted, not passed on."""
NUM_LAST_LINES = 40
GRACE_SECONDS = 0.2
"""How long the end of the output is waited for after the end of the child: descendants may hold it open."""

_LEVELS = {name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_RANK = re.compile(r"^\[rank\d+\]:\s?")
"""What torch.distributed puts before the lines of an uncaught error."""
_FORMATS = tuple(
    re.compile(pattern.replace("LEVEL", f"(?P<level>{'|'.join(_LEVELS)})"))
    for pattern in (
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ LEVEL (?P<text>.*)$",
        r"^(?:\([^)]*\) )?LEVEL \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] (?P<text>.*)$",
        r"^LEVEL:\s+(?P<text>.*)$",
    )
)
"""Our own log lines, vLLM's, uvicorn's."""
_TRACEBACK = "Traceback (most recent call last):"
_FATAL = re.compile(r"^(Fatal Python error: |terminate called |\s+what\(\): |Fatal error |CUDA error)")
"""How native code takes its leave."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a child's output."""

    level: int
    """As in `logging`."""
    text: str
    """Without the child's own clock and level."""


class Transcript:
    """Makes lines of bytes. Pure: the clock is the caller's."""

    def __init__(self) -> None:
        self._rest = b""
        self._cutting = False
        self._in_traceback = False
        self._second = 0
        self._num_passed = 0
        self._num_dropped = 0
        self._last: deque[Line] = deque(maxlen=NUM_LAST_LINES)

    @property
    def last_lines(self) -> tuple[Line, ...]:
        return tuple(self._last)

    def feed(self, data: bytes, now: float) -> list[Line]:
        """Return the lines to pass on. `now`: a monotonic clock, seconds."""
        *complete, self._rest = (self._rest + data).split(b"\n")
        if self._cutting and complete:
            complete[0] = b""  # what is left of a line that was cut and passed on already
            self._cutting = False
        if len(self._rest) > MAX_LINE_BYTES:
            if not self._cutting:
                complete.append(self._rest)
            self._rest, self._cutting = b"", True
        return [*self._turn_of_second(now), *self._pass_on(complete)]

    def end(self) -> list[Line]:
        """Return what is left once no more will come."""
        rest, self._rest = self._rest, b""
        return [*self._pass_on([] if self._cutting else [rest]), *self._dropped()]

    def cause(self, *, of_signal: bool) -> str | None:
        """Return the line that is likeliest to say why the child ended: its last error, else its last line.

        `of_signal`: whether a signal ended it; then its last line need not have to do with it.
        """
        errors = [line.text for line in self._last if line.level >= logging.ERROR]
        if errors:
            return errors[-1].strip()
        return self._last[-1].text.strip() if self._last and not of_signal else None

    def _turn_of_second(self, now: float) -> list[Line]:
        if int(now) == self._second:
            return []
        self._second, self._num_passed = int(now), 0
        return self._dropped()

    def _dropped(self) -> list[Line]:
        number, self._num_dropped = self._num_dropped, 0
        return [Line(logging.WARNING, f"{number} lines were left out here: too many in a second")] if number else []

    def _pass_on(self, raw: list[bytes]) -> Iterable[Line]:
        """Parse as many lines as this second has room for, and of the rest only the last ones, to be kept."""
        room = MAX_LINES_PER_SECOND - self._num_passed
        passed = [line for line in map(self._parse, raw[:room]) if line.text]
        dropped = [line for line in map(self._parse, raw[room:][-NUM_LAST_LINES:]) if line.text]
        self._num_passed += len(passed)
        self._num_dropped += max(0, len(raw) - room)
        self._last.extend([*passed, *dropped])
        return passed

    def _parse(self, raw: bytes) -> Line:
        text = raw[:MAX_LINE_BYTES].decode(errors="replace").rstrip().rpartition("\r")[2]
        text = _RANK.sub("", _ESCAPES.sub("", text))
        for pattern in _FORMATS:
            if found := pattern.match(text):
                self._in_traceback = False
                return Line(_LEVELS[found["level"]], found["text"])
        if text == _TRACEBACK:
            self._in_traceback = True
        is_error = self._in_traceback or _FATAL.match(text) is not None
        if self._in_traceback and text and not text.startswith(" ") and text != _TRACEBACK:
            self._in_traceback = False  # the line that names the error is the last of it
        return Line(logging.ERROR if is_error else logging.INFO, text)


class Output(asyncio.Protocol):
    """Reads a child's output and logs it under the child's name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._transcript = Transcript()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None

    @classmethod
    async def of(cls, name: str, descriptor: int) -> Self:
        """Take over the reading end of a pipe."""
        output = cls(name)
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: output, pipe)
        return output

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._log(self._transcript.feed(data, time.monotonic()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._log(self._transcript.end())
        if not self._ended.done():
            self._ended.set_result(None)

    async def rest(self) -> None:
        """Wait until all output is read; not for long where someone else holds it open."""
        await asyncio.wait({self._ended}, timeout=GRACE_SECONDS)

    def cause(self, returncode: int) -> str | None:
        """Return the line that says why the child ended with `returncode`, where there is one."""
        return self._transcript.cause(of_signal=returncode < 0)

    def close(self) -> None:
        """Read no more."""
        if self._transport is not None:
            self._transport.close()

    def _log(self, lines: list[Line]) -> None:
        for line in lines:
            logger.log(line.level, "%s: %s", self.name, line.text)
