"""What children print reaches the engine's log at its level, bounded; the line that says why one ended is found."""

import asyncio
import logging
import sys

import pytest

from tandem_checkpoint.process.child import Child
from tandem_checkpoint.process.output import (
    MAX_LINE_BYTES,
    MAX_LINES_PER_SECOND,
    NUM_LAST_LINES,
    Line,
    Transcript,
)
from tests.tandem_checkpoint.test_processes import ENVIRONMENT, SOON

TRACEBACK = b"""Traceback (most recent call last):
  File "rank.py", line 3, in <module>
    build()
torch.OutOfMemoryError: CUDA out of memory
"""


def lines_of(*chunks: bytes, now: float = 1.0) -> list[Line]:
    transcript = Transcript()
    return [line for chunk in chunks for line in transcript.feed(chunk, now)] + transcript.end()


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        (b"2026-11-22 13:40:05,123 WARNING slow disk", logging.WARNING, "slow disk"),
        (b"ERROR 11-22 13:40:05 [core.py:99] engine died", logging.ERROR, "engine died"),
        (b"(EngineCore pid=7) INFO 11-22 13:40:05 [core.py:9] ready", logging.INFO, "ready"),
        (b"INFO:     Application startup complete.", logging.INFO, "Application startup complete."),
        (b"just a line", logging.INFO, "just a line"),
        (b"Fatal Python error: Segmentation fault", logging.ERROR, "Fatal Python error: Segmentation fault"),
        (b"\x1b[31mred\x1b[0m", logging.INFO, "red"),
        (b"10%\r50%\r100%", logging.INFO, "100%"),
        (b"caf\xff", logging.INFO, "caf\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_line_has_the_level_that_its_child_gave_it(raw: bytes, level: int, text: str) -> None:
    assert lines_of(raw + b"\n") == [Line(level, text)]


def test_a_stack_trace_is_an_error_to_its_last_line_and_not_beyond() -> None:
    lines = lines_of(TRACEBACK, b"going on\n")

    assert [line.level for line in lines] == [logging.ERROR] * 4 + [logging.INFO]


def test_lines_are_put_together_from_whatever_pieces_come() -> None:
    assert [line.text for line in lines_of(b"on", b"e\ntw", b"o\n", b"three")] == ["one", "two", "three"]


def test_empty_lines_are_left_out() -> None:
    assert [line.text for line in lines_of(b"\n\none\n\n")] == ["one"]


def test_a_line_without_end_is_cut_and_not_kept() -> None:
    chunk = b"x" * 65536
    transcript = Transcript()

    lines = [line for _ in range(100) for line in transcript.feed(chunk, 1.0)] + transcript.feed(b"y\nnext\n", 1.0)

    assert [len(line.text) for line in lines] == [MAX_LINE_BYTES, len("next")]


def test_a_flood_is_counted_and_not_passed_on() -> None:
    transcript = Transcript()
    flood = b"".join(b"%d\n" % number for number in range(10_000))

    passed = transcript.feed(flood, 1.0)
    later = transcript.feed(b"calm again\n", 2.0)

    assert len(passed) == MAX_LINES_PER_SECOND
    assert [line.text for line in later] == [
        f"{10_000 - MAX_LINES_PER_SECOND} lines were left out here: too many in a second",
        "calm again",
    ]


def test_the_last_lines_are_kept_of_a_flood_too() -> None:
    transcript = Transcript()

    transcript.feed(b"".join(b"%d\n" % number for number in range(10_000)), 1.0)

    assert [line.text for line in transcript.last_lines] == [
        str(10_000 - NUM_LAST_LINES + n) for n in range(NUM_LAST_LINES)
    ]


@pytest.mark.parametrize(
    ("printed", "of_signal", "cause"),
    [
        (TRACEBACK + b"bye\n", False, "torch.OutOfMemoryError: CUDA out of memory"),
        (b"[rank0]: " + TRACEBACK.replace(b"\n", b"\n[rank0]: "), False, "torch.OutOfMemoryError: CUDA out of memory"),
        (b"ERROR 11-22 13:40:05 [core.py:99] engine died\nbye\n", False, "engine died"),
        (b"sh: trainer: not found\n", False, "sh: trainer: not found"),
        (b"step 3\n", True, None),
        (b"terminate called without an active exception\n", True, "terminate called without an active exception"),
        (b"", False, None),
    ],
)
def test_the_cause_is_the_last_error_else_the_last_line(printed: bytes, of_signal: bool, cause: str | None) -> None:
    transcript = Transcript()
    transcript.feed(printed, 1.0)

    assert transcript.cause(of_signal=of_signal) == cause


async def start(program: str) -> Child:
    return await Child.start("the child", [sys.executable, "-c", program], ENVIRONMENT)


async def test_what_a_child_prints_is_logged_under_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    child = await start("import sys; print('out', flush=True); print('err', file=sys.stderr)")

    await child.wait()

    assert [message for message in caplog.messages if message.startswith("the child: ")] == [
        "the child: out",
        "the child: err",
    ]
    await child.kill()


async def test_the_error_that_a_child_died_of_is_told_with_its_end() -> None:
    child = await start("raise ValueError('no such head')")

    assert await child.wait() == "the child exited with code 1: ValueError: no such head"
    await child.kill()


async def test_a_child_that_floods_blocks_neither_itself_nor_the_engine() -> None:
    child = await start("for _ in range(300_000): print('x' * 100)")
    ticks = 0

    async with asyncio.timeout(6 * SOON):
        while child.running:
            await asyncio.sleep(0.01)
            ticks += 1

    assert ticks > 1
    assert (await child.wait()).startswith("the child exited with code 0")
    await child.kill()


async def test_output_that_a_grandchild_holds_open_does_not_delay_the_end() -> None:
    child = await start("import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); print('bye')")

    async with asyncio.timeout(SOON):
        assert await child.wait() == "the child exited with code 0: bye"
    await child.kill()
