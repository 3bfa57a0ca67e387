"""Tests in several processes: those of a file stay together, and so do files that share an expensive ground."""

from collections.abc import Sequence

import pytest
from xdist.scheduler import LoadScopeScheduling

SHARED = {
    "node": ("tests/cluster/", "tests/ground/test_real_node.py"),
    "queues": ("tests/ground/test_queues.py", "tests/tandem_operator/test_queues.py"),
}
"""Where tests are that share a ground."""
GROUNDS = {"node_programs": "node", "queue_programs": "queues"}
"""The fixtures that such a ground is made of."""
LONG = ("node", "e2e", "api_server", "vllm", "megatron", "etcd")
"""Marks of what takes long, the longest first: short tests at the end let the processes finish together."""


class Rooms(LoadScopeScheduling):  # type: ignore[misc]  # untyped
    """Gives each process one room of tests after another, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return room_of(nodeid)


def room_of(nodeid: str) -> str:
    """Return what a test shares with those that run in the same process: a ground, else its file."""
    file = nodeid.partition("::")[0]
    return next((ground for ground, places in SHARED.items() if file.startswith(places)), file)


def long_first(items: list[pytest.Item]) -> None:
    """Put rooms in front that take long."""
    ranks: dict[str, int] = {}
    for item in items:
        room = room_of(item.nodeid)
        ranks[room] = min(ranks.get(room, len(LONG)), _rank(item))
    items.sort(key=lambda item: (ranks[room_of(item.nodeid)], room_of(item.nodeid)))


def check_rooms(items: Sequence[pytest.Item]) -> None:
    """Errors: UsageError where a test asks for a ground that is another room's: it would be there twice."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            ground = GROUNDS.get(fixture)
            if ground is not None and room_of(item.nodeid) != ground:
                raise pytest.UsageError(f"{item.nodeid}: asks for {fixture}; name its file in tests/side_by_side.py")


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, name in enumerate(LONG) if item.get_closest_marker(name)), len(LONG))
