"""The index knows of every object what the last word on it was, in whatever order lists, events and own writes come."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tandem_operator.kube.index import ChildIndex
from tandem_operator.kube.manifest import Manifest, name_of, resource_version_of


def pod(name: str, version: int, job: str = "math") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "research",
            "name": name,
            "resourceVersion": str(version),
            "labels": {"tandem.dev/job": job},
        },
    }


def versions(index: ChildIndex, job: str = "math") -> dict[str, str]:
    """Return the version of each object of a job."""
    return {name_of(known): resource_version_of(known) for known in index.of_job(("research", job))}


def test_children_come_by_name() -> None:
    index = ChildIndex()

    index.fill([pod("b", 2), pod("a", 3)], "5")

    assert [name_of(known) for known in index.of_job(("research", "math"))] == ["a", "b"]


def test_a_list_that_changes_nothing_touches_no_job() -> None:
    index = ChildIndex()
    index.fill([pod("a", 2)], "5")

    assert index.fill([pod("a", 2)], "9") == frozenset()


def test_a_list_touches_the_jobs_of_what_came_changed_and_went() -> None:
    index = ChildIndex()
    index.fill([pod("gone", 2, "lost"), pod("same", 2, "same"), pod("old", 2, "changed")], "5")

    touched = index.fill([pod("same", 2, "same"), pod("old", 6, "changed"), pod("new", 7, "fresh")], "9")

    assert touched == {("research", "lost"), ("research", "changed"), ("research", "fresh")}


def test_a_deletion_removes() -> None:
    index = ChildIndex()
    index.fill([pod("a", 2)], "5")

    touched = index.delete(pod("a", 6))

    assert touched == {("research", "math")}
    assert index.jobs() == frozenset()


def test_an_object_that_changes_its_job_touches_both() -> None:
    index = ChildIndex()
    index.fill([pod("a", 2, "math")], "5")

    touched = index.change(pod("a", 6, "code"))

    assert touched == {("research", "math"), ("research", "code")}
    assert versions(index, "math") == {}


def test_an_own_write_is_there_before_its_event_and_the_event_touches_nothing_more() -> None:
    index = ChildIndex()
    index.fill([], "5")

    index.remember(pod("a", 6))
    touched = index.change(pod("a", 6))

    assert versions(index) == {"a": "6"}
    assert touched == frozenset()


def test_an_own_write_outlives_a_list_from_before_it() -> None:
    index = ChildIndex()
    index.fill([], "5")
    index.remember(pod("a", 8))

    index.fill([], "6")

    assert versions(index) == {"a": "8"}


def test_an_own_write_whose_deletion_was_already_told_does_not_come_back() -> None:
    index = ChildIndex()
    index.fill([], "5")
    index.change(pod("a", 6))
    index.delete(pod("a", 7))

    index.remember(pod("a", 6))

    assert versions(index) == {}


def test_an_older_event_does_not_undo_an_own_write() -> None:
    index = ChildIndex()
    index.fill([], "5")
    index.remember(pod("a", 8))

    index.change(pod("a", 6))

    assert versions(index) == {"a": "8"}


def test_a_list_of_a_restored_etcd_replaces_everything() -> None:
    index = ChildIndex()
    index.fill([pod("a", 90), pod("lost", 95)], "100")

    index.fill([pod("a", 20)], "30")

    assert versions(index) == {"a": "20"}


@dataclass
class World:
    """What really is, and what has been told of it so far."""

    version: int = 10
    objects: dict[str, int] = field(default_factory=dict)
    untold: list[tuple[str, Manifest]] = field(default_factory=list)

    def write(self, name: str) -> Manifest:
        """Write an object; its event waits to be told."""
        self.version += 1
        self.objects[name] = self.version
        self.untold.append(("put", pod(name, self.version)))
        return pod(name, self.version)

    def delete(self, name: str) -> None:
        """Delete an object; its event waits to be told."""
        if self.objects.pop(name, None) is not None:
            self.version += 1
            self.untold.append(("delete", pod(name, self.version)))


def tell(index: ChildIndex, event: tuple[str, Manifest]) -> None:
    """Give one event to the index."""
    (index.change if event[0] == "put" else index.delete)(event[1])


def tell_all(world: World, index: ChildIndex) -> None:
    """Give every event that waits to the index."""
    for event in world.untold:
        tell(index, event)


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "own write", "delete", "tell", "list"]), st.sampled_from(["a", "b", "c"])),
    max_size=60,
)


@given(STEPS)
def test_once_all_is_told_the_index_is_the_world(steps: list[tuple[str, str]]) -> None:
    world, index = World(), ChildIndex()
    index.fill([], str(world.version))

    play(world, index, steps)
    tell_all(world, index)

    assert versions(index) == {name: str(version) for name, version in world.objects.items()}


@given(STEPS)
def test_an_own_write_is_never_missed_afterwards(steps: list[tuple[str, str]]) -> None:
    world, index = World(), ChildIndex()
    index.fill([], str(world.version))
    play(world, index, steps)

    index.remember(world.write("mine"))

    assert versions(index)["mine"] == str(world.version)


def play(world: World, index: ChildIndex, steps: list[tuple[str, str]]) -> None:
    """Do all steps."""
    for action, name in steps:
        take(world, index, action, name)


def take(world: World, index: ChildIndex, action: str, name: str) -> None:
    """Do one step."""
    if action == "write":
        world.write(name)
    elif action == "own write":
        index.remember(world.write(name))
    elif action == "delete":
        world.delete(name)
    elif action == "tell" and world.untold:
        tell(index, world.untold.pop(0))
    elif action == "list":
        world.untold.clear()  # a watch goes on from the version of the list
        index.fill([pod(known, version) for known, version in world.objects.items()], str(world.version))
