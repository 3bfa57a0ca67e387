"""The node's own cgroups: made below this process's, so that several nodes and the machine never meet."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from tests.ground.programs import GroundError

WANTED = frozenset({"cpu", "cpuset", "memory", "pids"})
"""Controllers without which a kubelet does not start."""
EMPTY_SECONDS = 20.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Layout:
    """Version of the hierarchies that a kubelet can use here, and this process's place in each."""

    version: int
    places: tuple[Path, ...]


def find_layout() -> Layout:
    """Return the layout of this machine; raise GroundError where neither version has the controllers."""
    mounts, own = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    return layout_of(mounts, own, lambda point: (point / "cgroup.controllers").read_text())


def layout_of(mounts: str, own: str, offered: Callable[[Path], str]) -> Layout:
    """Return the layout that /proc/self/mountinfo and /proc/self/cgroup describe; raise GroundError.

    `offered` returns the controllers of a version 2 hierarchy, by the point where it is mounted.
    """
    fields = [line.split() for line in mounts.splitlines()]
    points = [(each[-3], set(each[-1].split(",")), Path(each[4])) for each in fields]
    places: dict[str, Path] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for kind, options, point in points:
            if kind == "cgroup" and controllers and set(controllers.split(",")) <= options:
                places[controllers] = point / path.lstrip("/")
    if {controller for names in places for controller in names.split(",")} >= WANTED:
        return Layout(1, tuple(places.values()))
    for kind, _, point in points:
        if kind == "cgroup2" and set(offered(point).split()) >= WANTED:
            return Layout(2, (point,))
    raise GroundError(f"cgroups: neither version 1 nor 2 offers {', '.join(sorted(WANTED))} here; run on the machine")


def make(layout: Layout, name: str) -> tuple[Path, ...]:
    """Make one cgroup in each hierarchy, after what a dead node of this name left; raise GroundError."""
    folders = tuple(place / name for place in layout.places)
    remove(folders)
    try:
        for folder in folders:
            if layout.version == 2:
                (folder.parent / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in sorted(WANTED)))
            folder.mkdir()
            _inherit_cpus(folder)
    except OSError as error:
        remove(folders)
        raise GroundError(f"cgroups: cannot make {error.filename} ({error.strerror}); run where root may") from None
    return folders


def _inherit_cpus(folder: Path) -> None:
    """Give a version 1 cpuset its parent's processors and memory: it is made with none and takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (folder / name).exists() and (folder / "tasks").exists():
            (folder / name).write_text((folder.parent / name).read_text())


def remove(folders: tuple[Path, ...]) -> None:
    """Remove cgroups with all below them, once their processes are gone; raise TimeoutError where one lives on."""
    deadline = monotonic() + EMPTY_SECONDS
    for folder in folders:
        while folder.exists():
            for below in sorted(folder.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
                with suppress(OSError):
                    below.rmdir()
            with suppress(OSError):
                folder.rmdir()
                break
            if monotonic() > deadline:
                raise TimeoutError(f"{folder}: still has processes after {EMPTY_SECONDS:.0f} s")
            sleep(POLL_SECONDS)


def processes_below(folder: Path) -> set[int]:
    """Return the processes of a cgroup and of all cgroups below it, as this PID namespace numbers them."""
    found: set[int] = set()
    for listing in [folder / "cgroup.procs", *folder.rglob("cgroup.procs")]:
        with suppress(OSError):
            found |= {int(line) for line in listing.read_text().split()}
    return found
