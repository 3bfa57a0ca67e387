"""What `make test` runs in one process, where it runs several: tests that share an expensive ground, or a file."""

import pytest

SHARED = ("node_programs", "queue_programs", "complete_run")
"""Grounds that are there once: a test that asks for one runs where the others do."""
FIRST = ("node", "e2e", "api_server", "vllm", "megatron", "etcd")
"""Marks of what takes long, the longest first: short tests at the end let the processes finish together."""


def arrange(items: list[pytest.Item]) -> None:
    """Give each test the group that it stays with, and put groups that take long in front."""
    ranks: dict[str, int] = {}
    for item in items:
        group = group_of(item)
        item.add_marker(pytest.mark.xdist_group(group))
        ranks[group] = min(ranks.get(group, len(FIRST)), _rank(item))
    items.sort(key=lambda item: (ranks[group_of(item)], group_of(item)))


def group_of(item: pytest.Item) -> str:
    """Return the ground that a test shares with those of other files, else its file."""
    fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
    return next((name for name in SHARED if name in fixtures), item.nodeid.partition("::")[0])


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, name in enumerate(FIRST) if item.get_closest_marker(name)), len(FIRST))
