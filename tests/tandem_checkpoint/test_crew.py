"""Which ranks meet: those that all pods agree on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_api.job.pods import TrainerParallelism
from tandem_api.registry import MemberRecord
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.crew import Crew, find_crew, is_agreed, other_crew, places_of
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of

OTHER = "toy-hybrid-1"
OURS, THEIRS = "life of our ranks", "life of their ranks"


def settings(pod: str = POD) -> Settings:
    config = job_config(Path("/policy"), num_ranks=2).model_copy(update={"hybrid_pods": (POD, OTHER)})
    return replace(settings_of(config, Path("/shared")), pod=pod, attempt=1)


def record(life: str, address: str = "127.0.0.1", crew: str = "", attempt: int = 1) -> MemberRecord:
    return MemberRecord(
        incarnation="any",
        attempt=attempt,
        role="train",
        address=address,
        port=8701,
        rendezvous_port=29500,
        num_ranks=2,
        ranks_life=life,
        crew=crew,
    )


@asynccontextmanager
async def mirror_of(**records: MemberRecord | None) -> AsyncIterator[Mirror]:
    """Follow a registry with the records of `ours` and `theirs`."""
    registry, keys = FakeRegistry(), settings().keys
    for name, pod in (("ours", POD), ("theirs", OTHER)):
        found = records.get(name)
        if found is not None:
            await registry.put(keys.member(pod, "train"), found.model_dump_json())
    async with mirrored(registry, keys.prefix) as mirror:
        await mirror.wait(lambda seen: len(seen.values) == sum(item is not None for item in records.values()) or None)
        yield mirror


CREW = Crew((OURS, THEIRS), "127.0.0.1", 29500)


async def test_a_crew_is_the_lives_of_all_pods_and_the_address_of_the_first() -> None:
    async with mirror_of(ours=record(OURS), theirs=record(THEIRS, address="127.0.0.2")) as mirror:
        assert find_crew(mirror, settings(), OURS) == CREW


@pytest.mark.parametrize("theirs", [None, record(""), record(THEIRS, attempt=0)])
async def test_there_is_no_crew_before_every_trainer_of_this_attempt_has_ranks(theirs: MemberRecord | None) -> None:
    async with mirror_of(ours=record(OURS), theirs=theirs) as mirror:
        assert find_crew(mirror, settings(), OURS) is None


async def test_what_the_registry_says_of_our_own_ranks_before_is_not_taken_for_them() -> None:
    async with mirror_of(ours=record("life before"), theirs=record(THEIRS)) as mirror:
        assert find_crew(mirror, settings(), OURS) is None


async def test_a_crew_is_agreed_on_once_every_pod_says_so() -> None:
    async with mirror_of(ours=record(OURS, crew=CREW.name), theirs=record(THEIRS)) as mirror:
        before = is_agreed(mirror, settings(), CREW)
    async with mirror_of(ours=record(OURS, crew=CREW.name), theirs=record(THEIRS, crew=CREW.name)) as mirror:
        after = is_agreed(mirror, settings(), CREW)

    assert (before, after) == (None, True)


async def test_a_crew_whose_ranks_have_ended_meanwhile_cannot_be_agreed_on_any_more() -> None:
    async with mirror_of(ours=record(OURS, crew=CREW.name), theirs=record("next life")) as mirror:
        assert is_agreed(mirror, settings(), CREW) is False


async def test_ranks_of_another_life_change_the_crew() -> None:
    async with mirror_of(ours=record(OURS), theirs=record("next life")) as mirror:
        assert other_crew(mirror, settings(), CREW) == f"the ranks of {OTHER} have started anew"


@pytest.mark.parametrize("theirs", [None, record(THEIRS)])
async def test_an_engine_that_is_away_with_its_ranks_alive_changes_nothing(theirs: MemberRecord | None) -> None:
    async with mirror_of(ours=record(OURS), theirs=theirs) as mirror:
        assert other_crew(mirror, settings(), CREW) is None


def test_ranks_are_numbered_over_all_pods() -> None:
    places = places_of(CREW, settings(OTHER))

    assert [(place.rank, place.local_rank, place.world_size) for place in places] == [(2, 0, 4), (3, 1, 4)]
    assert {(place.rendezvous_address, place.rendezvous_port) for place in places} == {("127.0.0.1", 29500)}


def test_the_ranks_of_a_stage_are_numbered_over_all_pods_before_those_of_the_next() -> None:
    here = settings(OTHER)
    trainer = here.config.spec.trainer.model_copy(update={"parallelism": TrainerParallelism(pipeline=2)})
    config = here.config.model_copy(update={"spec": here.config.spec.model_copy(update={"trainer": trainer})})

    assert [place.rank for place in places_of(CREW, replace(here, config=config))] == [1, 3]


def test_other_lives_make_another_name() -> None:
    assert CREW.name != Crew((OURS, "next life"), "127.0.0.1", 29500).name
