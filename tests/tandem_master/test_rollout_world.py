"""Any servers that come, die and are slow, any end of a phase: no token is lost, none is sampled twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_api.trajectory import TrajectoryState
from tandem_master.rollout.dispatch import PAUSE_SECONDS
from tandem_master.rollout.exchange import FLUSH_SECONDS
from tandem_master.rollout.server import ABORT_SECONDS
from tests.tandem_master.server_world import Life, World
from tests.tandem_master.virtual_time import run_virtually

BUDGET = 16
LONGEST = 40
REWARD_SECONDS = 0.3
RELIABLE = {"http://s": Life(pace=2.0)}
LIVES = st.builds(
    Life,
    pace=st.sampled_from([0.5, 2.0, 8.0]),
    born=st.sampled_from([0.0, 0.0, 3.0]),
    dies=st.sampled_from([0.5, 2.2, 5.0, 1e9]),
    ends_requests=st.booleans(),
)
WORLDS = st.builds(
    lambda lengths, lives, capacity: World(
        lengths, RELIABLE | {f"http://{name}": life for name, life in zip("abc", lives, strict=False)}, capacity
    ),
    lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=5),
    lives=st.lists(LIVES, max_size=3),
    capacity=st.sampled_from([60, 90, 10_000]),
)


async def sampled(world: World, *, num_samples: int, deadline: float | None, iterations: int) -> None:
    """Run so many phases; only the first draws anything."""
    world.open(1, num_samples)
    for iteration in range(1, iterations + 1):
        await world.run_phase(iteration, BUDGET, deadline)


@settings(max_examples=60, deadline=None)
@given(world=WORLDS, num_samples=st.integers(1, 3), deadline=st.sampled_from([None, 0.1, 1.0, 3.0]))
def test_what_is_kept_is_what_was_sent_and_every_piece_goes_on_where_the_one_before_ended(
    world: World, num_samples: int, deadline: float | None
) -> None:
    run_virtually(sampled(world, num_samples=num_samples, deadline=deadline, iterations=2))

    trajectories = world.trajectories.values()
    assert sum(item.num_response_tokens for item in trajectories) == sum(world.sent.values())
    assert [item.id for item in trajectories if not _is_prefix(world, item.id)] == []
    ended = [item for item in trajectories if item.state is TrajectoryState.FINISHED]
    assert [item.id for item in ended if item.response_token_ids != world.expected(item)] == []


def _is_prefix(world: World, name: str) -> bool:
    item = world.trajectories[name]
    return world.expected(item)[: item.num_response_tokens] == item.response_token_ids


@settings(max_examples=40, deadline=None)
@given(world=WORLDS, num_samples=st.integers(1, 3))
def test_without_a_deadline_every_trajectory_ends_or_uses_its_budget_whoever_dies(
    world: World, num_samples: int
) -> None:
    run_virtually(sampled(world, num_samples=num_samples, deadline=None, iterations=1))

    wanted = {item.id: min(BUDGET, len(world.expected(item))) for item in world.trajectories.values()}
    assert {item.id: item.num_response_tokens for item in world.trajectories.values()} == wanted


@settings(max_examples=40, deadline=None)
@given(world=WORLDS, num_samples=st.integers(1, 3), deadline=st.sampled_from([None, 1.0]))
def test_no_server_ever_holds_more_than_its_cache_has_room_for(
    world: World, num_samples: int, deadline: float | None
) -> None:
    run_virtually(sampled(world, num_samples=num_samples, deadline=deadline, iterations=2))

    widest = num_samples * (2 + BUDGET)
    assert max(world.most_held.values()) <= max(world.capacity_tokens, widest)


@settings(max_examples=40, deadline=None)
@given(world=WORLDS, deadline=st.sampled_from([2.5, 4.0]))
def test_a_phase_is_over_soon_after_its_deadline(world: World, deadline: float) -> None:
    world.open(1, 2)
    seconds = run_virtually(world.run_phase(1, BUDGET, deadline))

    slack = ABORT_SECONDS + FLUSH_SECONDS + 3 * PAUSE_SECONDS + 2 * REWARD_SECONDS
    assert seconds <= deadline + slack


def test_a_server_that_cannot_end_its_requests_does_not_hold_the_phase_up() -> None:
    world = World([16], {"http://a": Life(pace=0.5, ends_requests=False)}, capacity_tokens=60)
    world.open(1, 1)

    seconds = run_virtually(world.run_phase(1, BUDGET, 3.0))

    assert seconds < 4.0


def test_a_server_that_joins_takes_its_share() -> None:
    world = World([20] * 6, RELIABLE | {"http://a": Life(pace=2.0, born=3.0)}, capacity_tokens=90)

    run_virtually(sampled(world, num_samples=2, deadline=None, iterations=1))

    assert world.sent["http://a"] > 0


def test_what_came_of_a_dead_server_is_not_sampled_again() -> None:
    world = World([16], {"http://a": Life(pace=2.0, dies=5.2), "http://b": Life(pace=1.0, born=5.3)}, 10_000)

    run_virtually(sampled(world, num_samples=1, deadline=None, iterations=1))

    (trajectory,) = world.trajectories.values()
    assert trajectory.response_token_ids == world.expected(trajectory)
    assert (world.sent["http://a"], world.sent["http://b"]) == (9, 7)
    assert [len(segment.token_ids) for segment in trajectory.segments] == [9, 7]
