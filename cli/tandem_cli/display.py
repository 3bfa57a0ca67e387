"""What `tandem up` shows while a job runs: a live view on a terminal, lines elsewhere, logs when asked."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from tandem_cli.feed import Feed
from tandem_cli.live.plain import lines_for
from tandem_cli.live.state import LiveState
from tandem_cli.live.view import render

REFRESH_SECONDS = 0.25
LOG_SECONDS = 0.2
HINT = "Ctrl-C finishes cleanly and stops; twice: at once"


class Display:
    """Shows a job on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.hint = HINT
        self._offsets: dict[Path, int] = {}

    def line(self, text: str) -> None:
        """Print one line as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a panel."""
        self._console.print(renderable)

    def changed(self, before: LiveState, after: LiveState) -> None:
        """Print what has changed, where there is no live view."""
        if not self._console.is_terminal:
            for line in lines_for(before, after):
                self.line(line)

    @asynccontextmanager
    async def live(self, feed: Feed) -> AsyncIterator[None]:
        """Keep a live view up to date while the context is open, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=False) as view:
            task = asyncio.create_task(self._refresh(view, feed), name="live view")
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                self._draw(view, feed)

    def skip_logs(self, logs: Path) -> None:
        """Leave out what earlier runs have logged."""
        self._offsets = {path: path.stat().st_size for path in _log_files(logs)}

    async def follow_logs(self, logs: Path) -> None:
        """Print every new line of every container's log, with the container's name before it."""
        while True:
            for path in _log_files(logs):
                name = f"{path.parent.name}/{path.stem}"
                self._offsets[path] = self._print_from(path, self._offsets.get(path, 0), name)
            await asyncio.sleep(LOG_SECONDS)

    async def _refresh(self, view: Live, feed: Feed) -> None:
        while True:
            self._draw(view, feed)
            await asyncio.sleep(REFRESH_SECONDS)

    def _draw(self, view: Live, feed: Feed) -> None:
        view.update(render(feed.state, time.time(), self._console.width, self.hint), refresh=True)

    def _print_from(self, path: Path, offset: int, name: str) -> int:
        """Print the complete lines after `offset`; return the new offset."""
        with path.open("rb") as file:
            file.seek(offset)
            complete = file.read().rpartition(b"\n")
        lines: Sequence[str] = complete[0].decode(errors="replace").splitlines() if complete[1] else []
        for line in lines:
            self.line(f"[{name}] {line}")
        return offset + len(complete[0]) + len(complete[1])


def _log_files(logs: Path) -> list[Path]:
    return sorted(logs.glob("*/*.log"))
