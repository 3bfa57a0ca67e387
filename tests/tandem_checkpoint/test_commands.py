"""What engine and children say to each other survives the channel."""

import math

import pytest

from tandem_api.engine import Sample, StepMetrics
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.process.commands import (
    RANK_ANSWER,
    RANK_COMMAND,
    SERVER_ANSWER,
    SERVER_COMMAND,
    ZYGOTE_ANSWER,
    Abort,
    Bind,
    Build,
    Exited,
    Export,
    Exported,
    FolderSource,
    Forked,
    Freed,
    Go,
    Load,
    Loaded,
    Moved,
    Offload,
    RankAnswer,
    RankCommand,
    RankPlace,
    Ready,
    Refused,
    Reload,
    Save,
    Saved,
    SegmentSource,
    ServerFailed,
    ServerStep,
    Train,
    Trained,
    ZygoteReady,
)

SAMPLE = Sample(token_ids=(1, 2, 3), first_loss_token=1, sampled_logprobs=(-0.1, -1e-30), advantage=0.3)
PIECE = Piece(tensor="model.norm.weight", start=(0,), stop=(64,), offset_bytes=0, num_bytes=256, xxh3=7)
SHARD = Shard(generation=3, incarnation="a", segment="weights-1.segment", segment_bytes=4096, pieces=(PIECE,))
PLACE = RankPlace(rank=3, world_size=4, local_rank=1, rendezvous_address="127.0.0.1", rendezvous_port=29500)
BIND = Bind(manifest="m", keeps_copy=True)
STEP = StepMetrics(loss=-1.5, gradient_norm=2.0)


@pytest.mark.parametrize(
    "command",
    [
        Build(place=PLACE, source=FolderSource(path="/policy")),
        Load(source=SegmentSource(path="/shm/weights-1.segment", shards=(SHARD,))),
        Export(segment="/shm/weights-0.segment"),
        Offload(),
        Reload(),
        Save(path="/state/policy"),
        Train(max_logprob_difference=1e-4, steps=((SAMPLE,), ()), samples_per_step=(1, 0)),
    ],
    ids=lambda command: command.kind,
)
def test_a_command_to_a_rank(command: RankCommand) -> None:
    assert RANK_COMMAND.validate_json(command.model_dump_json()) == command


@pytest.mark.parametrize(
    "answer",
    [
        Ready(device_bytes=5),
        Loaded(device_bytes=5),
        Exported(pieces=(PIECE,)),
        Moved(device_bytes=0, freed=Freed(expected_bytes=9, measured_bytes=8)),
        Saved(num_bytes=9),
        Refused(reason="no"),
        Trained(max_abs_logprob_difference=1e-7, kl=0.5, steps=(STEP,), num_tokens=9),
    ],
    ids=lambda answer: answer.kind,
)
def test_an_answer_of_a_rank(answer: RankAnswer) -> None:
    assert RANK_ANSWER.validate_json(answer.model_dump_json()) == answer


def test_what_zygote_and_server_say() -> None:
    assert ZYGOTE_ANSWER.validate_json(ZygoteReady(num_threads=1).model_dump_json()) == ZygoteReady(num_threads=1)
    assert ZYGOTE_ANSWER.validate_json(Forked(pid=7).model_dump_json()) == Forked(pid=7)
    assert ZYGOTE_ANSWER.validate_json(Exited(pid=7, returncode=-9).model_dump_json()) == Exited(pid=7, returncode=-9)
    assert SERVER_COMMAND.validate_json(Go().model_dump_json()) == Go()
    assert SERVER_COMMAND.validate_json(Abort().model_dump_json()) == Abort()
    assert SERVER_ANSWER.validate_json(ServerStep(step="loaded").model_dump_json()) == ServerStep(step="loaded")
    assert SERVER_ANSWER.validate_json(ServerFailed(reason="x").model_dump_json()) == ServerFailed(reason="x")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_log_probability_that_is_not_a_number_reaches_the_rank_that_refuses_it(value: float) -> None:
    sample = SAMPLE.model_copy(update={"sampled_logprobs": (-0.1, value)})
    command = Train(max_logprob_difference=1e-4, steps=((sample,),), samples_per_step=(1,))

    received = RANK_COMMAND.validate_json(command.model_dump_json())

    assert isinstance(received, Train)
    assert repr(received.steps[0][0].sampled_logprobs[1]) == repr(value)


def test_a_loss_that_is_not_a_number_reaches_the_engine() -> None:
    answer = Trained(
        max_abs_logprob_difference=0.0,
        kl=math.nan,
        steps=(StepMetrics(loss=math.nan, gradient_norm=math.inf),),
        num_tokens=1,
    )

    received = RANK_ANSWER.validate_json(answer.model_dump_json())

    assert isinstance(received, Trained)
    assert math.isnan(received.steps[0].loss)
