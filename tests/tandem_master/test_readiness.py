"""When a switch is complete and when it has failed."""

import pytest

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, FailureReason, Keys, MemberRecord, MemberState, MemberStatus
from tandem_api.weights import Layout, Shard
from tandem_master.errors import Disagreement, GenerationLost, MembersError, SwitchError
from tandem_master.members import MemberId, Membership, hybrid_members, read_membership
from tandem_master.readiness import describe_pending, missing_shards, pending_members

KEYS = Keys("default", "toy")
TRAIN, ROLLOUT = hybrid_members(["hybrid-0"])
INFER = Desired(epoch=3, phase=Phase.INFER, generation=1, iteration=2, deadline=0.0, lineage="ours")
TRAINING = Desired(epoch=4, phase=Phase.TRAIN, generation=1, iteration=2, deadline=0.0)


def record(member: MemberId, incarnation: str = "one") -> MemberRecord:
    return MemberRecord(incarnation=incarnation, role=member.role, address="127.0.0.1", port=1, num_ranks=1)


def status(state: MemberState, epoch: int = 3, generation: int | None = None, error: str | None = None) -> MemberStatus:
    return MemberStatus(incarnation="one", epoch=epoch, state=state, generation=generation, error=error)


def membership(train: MemberStatus | None, rollout: MemberStatus | None) -> Membership:
    statuses = {TRAIN: train, ROLLOUT: rollout}
    return Membership({m: record(m) for m in (TRAIN, ROLLOUT)}, {m: s for m, s in statuses.items() if s is not None})


def pending(view: Membership, desired: Desired = INFER) -> tuple[MemberId, ...]:
    return pending_members(view, (TRAIN, ROLLOUT), desired)


def registered(*pieces: Layout | Shard) -> dict[str, str]:
    """The weights' keys once the first shard, then the second, is registered by its pod's trainer."""
    shards = [piece for piece in pieces if isinstance(piece, Shard)]
    values = {KEYS.layout(piece.generation): piece.model_dump_json() for piece in pieces if isinstance(piece, Layout)}
    return values | {KEYS.shard(1, "hybrid-0", index): shard.model_dump_json() for index, shard in enumerate(shards)}


def layout(lineage: str = "ours") -> Layout:
    return Layout(generation=1, lineage=lineage, tensors=(), shards=("hybrid-0/0", "hybrid-0/1"))


def shard(lineage: str = "ours") -> Shard:
    return Shard(generation=1, incarnation="one", lineage=lineage, segment="a", segment_bytes=0, pieces=())


def test_the_change_to_infer_is_complete_when_the_server_serves_and_the_trainer_is_idle() -> None:
    assert pending(membership(status(MemberState.IDLE), status(MemberState.SERVING, generation=1))) == ()


def test_the_change_to_train_is_complete_when_the_trainer_trains_and_the_server_is_idle() -> None:
    view = membership(status(MemberState.TRAINING, epoch=4), status(MemberState.IDLE, epoch=4))

    assert pending(view, TRAINING) == ()


def test_a_state_of_an_earlier_epoch_does_not_count() -> None:
    view = membership(status(MemberState.IDLE, epoch=1), status(MemberState.SERVING, generation=1))

    assert pending(view) == (TRAIN,)


def test_a_silent_member_is_awaited() -> None:
    assert pending(membership(None, status(MemberState.SWITCHING))) == (TRAIN, ROLLOUT)


def test_a_failed_member_fails_the_switch_with_its_own_words() -> None:
    view = membership(status(MemberState.FAILED, error="out of memory"), None)

    with pytest.raises(SwitchError, match=r"switch 3 \(TrainToInfer, generation 1\): hybrid-0/train failed: out of"):
        pending(view)


def test_a_failure_of_an_earlier_epoch_is_awaited_and_told_at_the_deadline() -> None:
    view = membership(status(MemberState.FAILED, epoch=2, error="out of memory"), status(MemberState.SERVING))

    assert pending(view) == (TRAIN,)
    assert describe_pending(view, [TRAIN]) == "hybrid-0/train is Failed at epoch 2 (out of memory)"


def test_a_failure_that_leaves_nobody_with_the_generation_is_told_apart() -> None:
    lost = status(MemberState.FAILED, error="neither in the ranks nor in a checkpoint")
    view = membership(lost.model_copy(update={"reason": FailureReason.GENERATION_LOST}), None)

    with pytest.raises(GenerationLost, match=r"generation 1\): hybrid-0/train failed: neither in the ranks nor"):
        pending(view)


def test_a_self_test_that_failed_is_told_apart() -> None:
    wrong = status(MemberState.FAILED, error="self-test: model.norm.weight")
    view = membership(None, wrong.model_copy(update={"reason": FailureReason.SELF_TEST}))

    with pytest.raises(Disagreement, match=r"generation 1\): hybrid-0/rollout failed: self-test: model.norm.weight"):
        pending(view)


def test_a_member_that_has_gone_is_waited_for_and_told_at_the_deadline() -> None:
    view = Membership({TRAIN: record(TRAIN)}, {TRAIN: status(MemberState.IDLE)})

    assert pending(view) == (ROLLOUT,)
    assert describe_pending(view, [ROLLOUT]) == "hybrid-0/rollout is gone: look at that container's log"


def test_a_member_that_was_started_anew_is_waited_for_until_it_has_followed() -> None:
    records = {TRAIN: record(TRAIN), ROLLOUT: record(ROLLOUT, "two")}
    again = MemberStatus(incarnation="two", epoch=0, state=MemberState.IDLE)
    serving = MemberStatus(incarnation="two", epoch=3, state=MemberState.SERVING, generation=1)

    assert pending(Membership(records, {TRAIN: status(MemberState.IDLE), ROLLOUT: again})) == (ROLLOUT,)
    assert pending(Membership(records, {TRAIN: status(MemberState.IDLE), ROLLOUT: serving})) == ()


def test_a_member_on_its_way_is_told_in_the_words_of_the_protocol() -> None:
    view = membership(status(MemberState.SWITCHING).model_copy(update={"stage": "Exporting"}), None)

    assert (
        describe_pending(view, [TRAIN, ROLLOUT]) == "hybrid-0/train is Exporting at epoch 3, hybrid-0/rollout is silent"
    )


def test_a_server_of_another_generation_fails_the_switch() -> None:
    view = membership(status(MemberState.IDLE), status(MemberState.SERVING, generation=7))

    with pytest.raises(SwitchError, match="hybrid-0/rollout serves generation 7"):
        pending(view)


def test_a_status_of_an_earlier_incarnation_does_not_count() -> None:
    values = {
        KEYS.member("hybrid-0", "train"): record(TRAIN, "two").model_dump_json(),
        KEYS.status("hybrid-0", "train"): status(MemberState.IDLE).model_dump_json(),
    }

    assert read_membership(values, KEYS).statuses == {}


def test_a_record_that_cannot_be_read_is_named_by_its_key() -> None:
    with pytest.raises(MembersError, match=r"members/hybrid-0/train: Field required; is the engine of another version"):
        read_membership({KEYS.member("hybrid-0", "train"): "{}"}, KEYS)


def test_shards_are_missing_until_all_of_the_layout_are_registered() -> None:
    assert missing_shards(registered(layout()), KEYS, INFER) == ("hybrid-0/0", "hybrid-0/1")
    assert missing_shards(registered(layout(), shard()), KEYS, INFER) == ("hybrid-0/1",)
    assert missing_shards(registered(layout(), shard(), shard()), KEYS, INFER) == ()


def test_a_shard_of_another_lineage_holds_other_weights_and_is_missing() -> None:
    assert missing_shards(registered(layout(), shard(), shard("before")), KEYS, INFER) == ("hybrid-0/1",)


def test_without_a_layout_of_this_lineage_nobody_knows_what_is_missing() -> None:
    assert missing_shards({}, KEYS, INFER) is None
    assert missing_shards(registered(layout("before"), shard("before"), shard("before")), KEYS, INFER) is None


@pytest.mark.parametrize("key", [KEYS.layout(1), KEYS.shard(1, "hybrid-0", 0)])
def test_weights_that_cannot_be_read_are_named_by_the_key_of_their_layout(key: str) -> None:
    with pytest.raises(SwitchError, match=r"weights/1/layout: Field required; is the engine of another version\?"):
        missing_shards(registered(layout(), shard(), shard()) | {key: "{}"}, KEYS, INFER)
