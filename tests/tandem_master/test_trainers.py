"""The trainers' HTTP API: asked are those that are registered now, and each answer says what can be done about it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tandem_api.engine import SaveStep, TrainRequest
from tandem_api.registry import MemberRecord
from tandem_master.errors import Disagreement, MembersError, Recoverable, TrainError
from tandem_master.loop import find_trainers
from tandem_master.members import MemberId, Membership
from tandem_master.trainers import Trainer, TrainerApi
from tests.tandem_master.engine_stub import TOKEN, EngineStub, serving

PODS = ("hybrid-0", "hybrid-1")
REQUEST = TrainRequest(epoch=2, generation=0, max_logprob_difference=1e-4, steps=((), ()), samples_per_step=(1, 1))
NOBODYS_PORT = 9


def record(port: int, num_ranks: int = 1) -> MemberRecord:
    return MemberRecord(incarnation="one", role="train", address="127.0.0.1", port=port, num_ranks=num_ranks)


@dataclass(slots=True)
class Job:
    """Trainers of a job, who may change."""

    stub: EngineStub
    port: int
    api: TrainerApi
    registered: list[Trainer] = field(default_factory=list)


@pytest.fixture
async def job() -> AsyncIterator[Job]:
    """Two trainers whose engines answer on one port."""
    stub, registered = EngineStub({}), list[Trainer]()
    async with serving(stub) as port, httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        registered += [Trainer(pod, record(port)) for pod in PODS]
        yield Job(stub, port, TrainerApi(client, lambda: registered), registered)


async def train(job: Job, pods: Sequence[str] = PODS) -> None:
    await job.api.train(dict.fromkeys(pods, REQUEST))


async def test_every_trainer_is_sent_its_request(job: Job) -> None:
    await train(job)

    assert job.stub.train_requests == [REQUEST, REQUEST]


async def test_a_trainer_that_has_another_address_now_is_asked_there(job: Job) -> None:
    job.registered[:] = [Trainer(pod, record(NOBODYS_PORT)) for pod in PODS]
    with pytest.raises(TrainError, match=r"hybrid-[01]/train: /v1/train got no answer \(Connect"):
        await train(job)

    job.registered[:] = [Trainer(pod, record(job.port)) for pod in PODS]
    await train(job)

    assert len(job.stub.train_requests) == 2


async def test_a_batch_for_other_trainers_than_there_are_now_is_not_sent(job: Job) -> None:
    with pytest.raises(TrainError, match="the trainers have changed since the batch was made; it is made again"):
        await train(job, PODS[:1])

    assert job.stub.train_requests == []


async def test_a_training_that_breaks_can_be_tried_again(job: Job) -> None:
    job.stub.broken_epochs = frozenset({REQUEST.epoch})

    with pytest.raises(Recoverable, match=r"hybrid-[01]/train: rank 1 ended: killed by SIGKILL"):
        await train(job)


async def test_a_batch_that_is_refused_is_a_disagreement_which_trying_again_would_hide(job: Job) -> None:
    job.stub.refusal = "the log-probabilities differ"

    with pytest.raises(Disagreement, match=r"hybrid-[01]/train: the log-probabilities differ"):
        await train(job)

    assert not issubclass(Disagreement, Recoverable)


async def test_the_first_trainer_saves(job: Job, tmp_path: Path) -> None:
    await job.api.save(tmp_path / "generation-000001", 1)

    assert job.stub.saved == ["generation-000001"]


async def test_trainers_that_hold_a_part_each_write_it_between_two_steps_of_the_first(job: Job, tmp_path: Path) -> None:
    job.registered[:] = [Trainer(it.pod, it.record.model_copy(update={"is_whole": False})) for it in job.registered]

    await job.api.save(tmp_path / "policy", 1)

    assert job.stub.save_steps == [SaveStep.PREPARE, SaveStep.WRITE, SaveStep.WRITE, SaveStep.COMMIT]


def test_trainers_are_found_in_the_order_of_their_pods() -> None:
    records = {MemberId(pod, "train"): record(1) for pod in reversed(PODS)}

    assert find_trainers(Membership(records, {}), PODS) == tuple(Trainer(pod, record(1)) for pod in PODS)


def test_a_trainer_that_has_gone_can_come_back() -> None:
    with pytest.raises(Recoverable, match="hybrid-1/train has gone; look at that container's log"):
        find_trainers(Membership({MemberId(PODS[0], "train"): record(1)}, {}), PODS)


def test_a_trainer_without_ranks_is_of_another_version() -> None:
    with pytest.raises(MembersError, match="hybrid-0/train: registered without ranks"):
        find_trainers(Membership({MemberId(PODS[0], "train"): record(1, num_ranks=0)}, {}), PODS[:1])
