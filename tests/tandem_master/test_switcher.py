"""One switch at a time: members may be slow, fail, go and come back while it runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandem_api.history import RECORD, SwitchRecord
from tandem_api.job.operations import SwitchSpec
from tandem_api.registry import Desired, Keys, MemberRecord
from tandem_checkpoint.registry.errors import Fenced
from tandem_checkpoint.registry.store import Guard, Put
from tandem_master.errors import GenerationLost, SwitchError
from tandem_master.journal import open_journal
from tandem_master.mastership import elected
from tandem_master.members import hybrid_members
from tandem_master.phases import Parties, Switcher
from tandem_master.watched import watched
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import Script, on_stage

KEYS = Keys("default", "toy")
PODS = ("toy-hybrid-0", "toy-hybrid-1")
PORT = 9
"""Nobody is asked anything."""
AMPLE_SECONDS = 10.0
SHORT_SECONDS = 2
"""Passes in a test; the switches before, which must not fail, write to a disk that others may keep busy."""


@dataclass(slots=True)
class Stage:
    """A switcher whose members act by a script."""

    registry: FakeRegistry
    switcher: Switcher
    state: Path

    def records(self) -> list[SwitchRecord]:
        """The switches of metrics.jsonl."""
        lines = (self.state / "metrics.jsonl").read_text().splitlines()
        return [record for record in map(RECORD.validate_json, lines) if isinstance(record, SwitchRecord)]

    async def word(self) -> Desired:
        """What the members were told last."""
        return Desired.model_validate_json(await self.registry.get(KEYS.desired) or "")

    async def incarnation(self, pod: str) -> str:
        """Which start of a pod's server is registered."""
        return MemberRecord.model_validate_json(await self.registry.get(KEYS.member(pod, "rollout")) or "").incarnation


class LosesALease(FakeRegistry):
    """A trainer's lease ends just before the first publication; a moment later its shard is registered again."""

    def __init__(self) -> None:
        super().__init__()
        self.present_at_publication: list[bool] = []
        self.refused = 0
        self.back: asyncio.Task[None] | None = None

    async def transact(self, guards: Sequence[Guard], puts: Sequence[Put]) -> None:
        if any(put.key == KEYS.published for put in puts):
            shard = KEYS.shard(3, PODS[0], 0)
            if not self.present_at_publication:
                text = await self.get(shard)
                await self.delete(shard)
                self.back = asyncio.create_task(self._register_later(shard, text or ""))
            self.present_at_publication.append(await self.get(shard) is not None)
        try:
            await super().transact(guards, puts)
        except Fenced:
            self.refused += 1
            raise

    async def _register_later(self, shard: str, text: str) -> None:
        await asyncio.sleep(0.05)
        await self.put(shard, text)


@asynccontextmanager
async def performed(
    state: Path, script: Script, deadline_seconds: float = AMPLE_SECONDS, registry: FakeRegistry | None = None
) -> AsyncIterator[Stage]:
    """A switcher after epoch 0, in the lineage `ours`, with two pods that act by a script."""
    registry, wanted = registry or FakeRegistry(), hybrid_members(PODS)
    spec = SwitchSpec(
        train_to_infer_deadline_seconds=deadline_seconds, infer_to_train_deadline_seconds=deadline_seconds
    )
    with open_journal(state) as journal:
        async with (
            elected(registry, KEYS, "toy-master") as mastership,
            watched(registry, [KEYS.prefix]) as members,
            on_stage(registry, KEYS, PODS, PORT, script),
        ):
            parties = Parties(registry, KEYS, mastership, members, wanted, journal, "toy-master")
            yield Stage(registry, Switcher(parties, spec, last_epoch=0, lineage="ours"), state)


async def test_a_member_that_is_started_anew_in_a_switch_is_waited_for_and_the_switch_completes(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(restarts=frozenset({"rollout/2"}))) as stage:
        await stage.switcher.to_infer(0, 1)
        before = await stage.incarnation(PODS[0])

        await stage.switcher.to_train(0, 1)

        assert await stage.incarnation(PODS[0]) != before
    assert [record.epoch for record in stage.records()] == [1, 2]


async def test_a_trainer_that_is_started_anew_while_it_exports_is_waited_for(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(restarts=frozenset({"train/1"}))) as stage:
        serving = await stage.switcher.to_infer(0, 1)

        assert serving.servers()
        assert await stage.registry.get(KEYS.published) == "0"


async def test_a_member_that_stays_away_is_named_at_the_deadline(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(departures=frozenset({"rollout/2"})), SHORT_SECONDS) as stage:
        await stage.switcher.to_infer(0, 1)

        with pytest.raises(SwitchError) as error:
            await stage.switcher.to_train(0, 1)

    assert str(error.value) == (
        "spec.switch.inferToTrainDeadlineSeconds: switch 2 (InferToTrain, generation 0) took more than 2 s:"
        " toy-hybrid-0/rollout is gone: look at that container's log,"
        " toy-hybrid-1/rollout is gone: look at that container's log"
    )


async def test_a_member_that_does_nothing_is_named_with_what_it_did_last(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(silences=frozenset({"train/2"})), SHORT_SECONDS) as stage:
        await stage.switcher.to_infer(0, 1)

        with pytest.raises(SwitchError) as error:
            await stage.switcher.to_train(0, 1)

    assert str(error.value) == (
        "spec.switch.inferToTrainDeadlineSeconds: switch 2 (InferToTrain, generation 0) took more than 2 s:"
        " toy-hybrid-0/train is Idle at epoch 1, toy-hybrid-1/train is Idle at epoch 1"
    )


async def test_weights_that_nobody_exports_are_named_at_the_deadline(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(silences=frozenset({"train/1"})), SHORT_SECONDS) as stage:
        with pytest.raises(SwitchError, match="no trainer has written the layout of the weights"):
            await stage.switcher.to_infer(0, 1)


async def test_a_member_that_fails_fails_the_switch_at_once_with_its_own_words(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(failures={"rollout/2": "server: exit 137"})) as stage:
        await stage.switcher.to_infer(0, 1)

        with pytest.raises(SwitchError, match=r"toy-hybrid-[01]/rollout failed: server: exit 137$"):
            await stage.switcher.to_train(0, 1)


async def test_after_a_switch_that_failed_the_next_one_has_a_newer_epoch(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(failures={"rollout/1": "server: exit 137"})) as stage:
        with pytest.raises(SwitchError):
            await stage.switcher.to_infer(0, 1)

        await stage.switcher.to_infer(0, 1)

        assert (await stage.word()).epoch == 2
    assert [record.epoch for record in stage.records()] == [2]


async def test_weights_that_nobody_has_any_more_are_told_apart(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(losses=frozenset({"train/1"}))) as stage:
        with pytest.raises(GenerationLost, match=r"generation 3\): toy-hybrid-[01]/train failed: nobody has it"):
            await stage.switcher.to_infer(3, 4)


async def test_every_word_names_the_lineage_that_generations_belong_to_now(tmp_path: Path) -> None:
    async with performed(tmp_path, Script()) as stage:
        await stage.switcher.to_infer(3, 4)
        first = await stage.word()
        stage.switcher.begin_lineage()
        await stage.switcher.to_infer(3, 4)
        second = await stage.word()

    assert first.lineage == "ours"
    assert second.lineage == stage.switcher.lineage
    assert second.lineage not in {"", "ours"}


async def test_shards_of_a_lineage_that_was_given_up_are_not_published(tmp_path: Path) -> None:
    async with performed(tmp_path, Script(silences=frozenset({"train/2"})), SHORT_SECONDS) as stage:
        await stage.switcher.to_infer(3, 4)
        await stage.registry.delete(KEYS.published)
        stage.switcher.begin_lineage()

        with pytest.raises(SwitchError, match="no trainer has written the layout of the weights"):
            await stage.switcher.to_infer(3, 4)

        assert await stage.registry.get(KEYS.published) is None


async def test_weights_are_published_only_while_every_shard_is_registered(tmp_path: Path) -> None:
    registry = LosesALease()

    async with performed(tmp_path, Script(), registry=registry) as stage:
        await stage.switcher.to_infer(3, 4)

    assert registry.present_at_publication[0] is False
    assert registry.present_at_publication[-1] is True
    assert registry.refused == registry.present_at_publication.count(False)


async def test_the_record_of_a_switch_has_the_masters_own_stages_beside_the_members(tmp_path: Path) -> None:
    async with performed(tmp_path, Script()) as stage:
        await stage.switcher.to_infer(0, 1)
        await stage.switcher.to_train(0, 1)

    to_infer, to_train = stage.records()
    assert [(item.pod, item.role, item.stage) for item in to_infer.stages] == [
        ("toy-hybrid-0", "train", "ready"),
        ("toy-hybrid-0", "rollout", "ready"),
        ("toy-hybrid-1", "train", "ready"),
        ("toy-hybrid-1", "rollout", "ready"),
        ("toy-master", "master", "announce"),
        ("toy-master", "master", "publish"),
        ("toy-master", "master", "confirm"),
    ]
    assert [item.stage for item in to_train.stages if item.role == "master"] == ["announce", "confirm"]
    assert {item.waits for item in (*to_infer.stages, *to_train.stages)} == {False}
