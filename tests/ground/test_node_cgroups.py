"""Which cgroups a node gets, on machines of either version."""

from pathlib import Path

import pytest

from tests.ground.node_cgroups import Layout, layout_of
from tests.ground.programs import GroundError

ALL = "cpuset cpu io memory hugetlb pids"
UNIFIED = "35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
VERSION_1 = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_version_1_gives_a_place_in_each_hierarchy_below_this_process() -> None:
    own = "8:pids:/\n4:memory:/box/7\n3:cpuset:/\n1:cpu,cpuacct:/\n0::/\n"

    layout = layout_of(VERSION_1, own, lambda _: "hugetlb")

    folder = Path("/sys/fs/cgroup")
    assert layout == Layout(1, (folder / "pids", folder / "memory/box/7", folder / "cpuset", folder / "cpu,cpuacct"))


def test_version_2_gives_a_place_below_the_root() -> None:
    layout = layout_of(UNIFIED, "0::/user.slice/session-1.scope\n", lambda _: ALL)

    assert layout == Layout(2, (Path("/sys/fs/cgroup"),))


def test_a_container_without_controllers_is_told_so() -> None:
    with pytest.raises(GroundError, match=r"neither version 1 nor 2 offers cpu, cpuset, memory, pids here"):
        layout_of(UNIFIED, "0::/\n", lambda _: "")
