"""Who offers a generation: pods whose living trainer has registered all its pieces, and pods that have fetched it."""

from pathlib import Path

import pytest

from tandem_api.registry import CopyRecord, Keys, MemberRecord
from tandem_api.weights import Shard
from tandem_checkpoint.transfer.offers import find_copies, find_offers
from tandem_checkpoint.transfer.plan import Offer, Source, digest_of
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, export

KEYS = Keys("default", "toy")
POD = "toy-hybrid-0"


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return export(tmp_path)


def member(shard: Shard) -> MemberRecord:
    return MemberRecord(incarnation=shard.incarnation, role="train", address="10.0.0.7", port=8701)


def registered(shard: Shard, *shards: Shard) -> dict[str, str]:
    """Return the registry with a trainer and what it has registered."""
    keys = {KEYS.shard(GENERATION, POD, index): item.model_dump_json() for index, item in enumerate(shards or (shard,))}
    return {KEYS.member(POD, "train"): member(shard).model_dump_json(), **keys}


def test_a_pod_that_has_registered_everything_offers_it(shard: Shard) -> None:
    offers = find_offers(registered(shard), KEYS, GENERATION, LAYOUT)

    assert offers == (Offer(Source(POD, "http://10.0.0.7:8701"), shard.pieces),)


def test_a_pod_that_speaks_tls_is_asked_over_tls(shard: Shard) -> None:
    values = registered(shard)
    values[KEYS.member(POD, "train")] = member(shard).model_copy(update={"scheme": "https"}).model_dump_json()

    (offer,) = find_offers(values, KEYS, GENERATION, LAYOUT)

    assert offer.source.url == "https://10.0.0.7:8701"


def test_the_shards_of_a_pods_ranks_are_one_offer(shard: Shard) -> None:
    halves = [shard.model_copy(update={"pieces": shard.pieces[part::2]}) for part in (0, 1)]

    (offer,) = find_offers(registered(shard, *halves), KEYS, GENERATION, LAYOUT)

    assert set(offer.pieces) == set(shard.pieces)


def test_a_pod_of_which_a_rank_has_not_yet_registered_offers_nothing(shard: Shard) -> None:
    half = shard.model_copy(update={"pieces": shard.pieces[::2]})

    assert find_offers(registered(shard, half), KEYS, GENERATION, LAYOUT) == ()


def test_a_trainer_that_has_gone_offers_nothing(shard: Shard) -> None:
    values = registered(shard)
    del values[KEYS.member(POD, "train")]

    assert find_offers(values, KEYS, GENERATION, LAYOUT) == ()


def test_shards_of_an_earlier_start_of_the_trainer_are_not_offered(shard: Shard) -> None:
    older = shard.model_copy(update={"incarnation": "older"})

    assert find_offers(registered(shard, older), KEYS, GENERATION, LAYOUT) == ()


def test_another_generation_is_not_offered(shard: Shard) -> None:
    assert find_offers(registered(shard), KEYS, GENERATION + 1, LAYOUT) == ()


def test_pods_whose_names_begin_alike_are_told_apart(shard: Shard) -> None:
    values = registered(shard)
    values[KEYS.shard(GENERATION, f"{POD}0", 0)] = shard.model_copy(update={"pieces": ()}).model_dump_json()

    assert [offer.source.pod for offer in find_offers(values, KEYS, GENERATION, LAYOUT)] == [POD]


READER = "toy-rollout-9"


def giving(shard: Shard, pod: str, *, incarnation: str = "its own", digest: str = "") -> dict[str, str]:
    """Return the registry of a trainer that has registered a shard, and a rollout-only pod that has fetched it."""
    record = CopyRecord(incarnation=incarnation, digest=digest or digest_of(shard.pieces))
    engine = MemberRecord(incarnation="its own", role="rollout", address="10.0.0.8", port=8702)
    return {
        **registered(shard),
        KEYS.member(pod, "rollout"): engine.model_dump_json(),
        KEYS.copy(GENERATION, pod): record.model_dump_json(),
    }


def copies(values: dict[str, str], generation: int = GENERATION) -> tuple[Offer, ...]:
    return find_copies(values, KEYS, generation, find_offers(values, KEYS, generation, LAYOUT), READER)


def test_a_pod_that_has_fetched_it_gives_it_on(shard: Shard) -> None:
    (copy,) = copies(giving(shard, "toy-rollout-0"))

    assert copy.source == Source("toy-rollout-0", "http://10.0.0.8:8702")
    assert set(copy.pieces) == set(shard.pieces)


def test_a_pod_does_not_fetch_from_itself(shard: Shard) -> None:
    assert copies(giving(shard, READER)) == ()


def test_a_copy_of_other_weights_does_not_count(shard: Shard) -> None:
    assert copies(giving(shard, "toy-rollout-0", digest="another")) == ()


def test_a_copy_of_an_earlier_start_of_the_engine_does_not_count(shard: Shard) -> None:
    assert copies(giving(shard, "toy-rollout-0", incarnation="older")) == ()


def test_a_copy_whose_engine_has_gone_does_not_count(shard: Shard) -> None:
    values = giving(shard, "toy-rollout-0")
    del values[KEYS.member("toy-rollout-0", "rollout")]

    assert copies(values) == ()


def test_a_copy_goes_with_the_trainers_own_shards(shard: Shard) -> None:
    values = giving(shard, "toy-rollout-0")
    del values[KEYS.member(POD, "train")]

    assert copies(values) == ()


def test_a_copy_of_another_generation_does_not_count(shard: Shard) -> None:
    assert copies(giving(shard, "toy-rollout-0"), GENERATION + 2) == ()
