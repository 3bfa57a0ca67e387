"""The parts of the benchmark of weights that need no clock: bytes of a plan, and ratios."""

import pytest
from benchmarks.weights_bench.export import EXPORT, MEMCPY, MEMCPY_BY_THREADS, SUM, TWO_PASSES, ratios, together
from benchmarks.weights_bench.pairs import moved_bytes, needed_bytes, server_splits, trainer_splits
from benchmarks.weights_bench.policies import small_policies

from tandem_checkpoint.architectures import ARCHITECTURES
from tandem_checkpoint.reshard.placement import Held


def _held(rank: int, start: int, stop: int) -> Held:
    return Held("weight", (8,), 2, rank, (start,), (stop,), 0)


def test_a_byte_that_two_ranks_of_the_pod_want_is_needed_and_moved_once() -> None:
    have = [_held(0, 0, 4), _held(1, 4, 8)]
    want = [_held(0, 0, 6), _held(1, 2, 8)]

    assert needed_bytes(want) == moved_bytes(have, want) == 16


def test_bytes_that_nobody_wants_are_neither_needed_nor_moved() -> None:
    want = [_held(0, 2, 3)]

    assert needed_bytes(want) == moved_bytes([_held(0, 0, 8)], want) == 2


def test_every_family_is_planned_with_and_without_tied_embeddings() -> None:
    assert len(small_policies()) == 2 * len(ARCHITECTURES)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_kind_of_split_of_a_family_is_planned(family: str) -> None:
    policy = small_policies()[family]

    splits = list(trainer_splits(policy))

    assert {split.tensor for split in splits} == {1, 2, 4}
    assert {(split.pipeline, split.first_stage_layers) for split in splits} == {(1, None), (2, None), (2, 1)}
    assert {split.expert * split.expert_tensor for split in splits} == ({1, 2, 4} if policy.num_experts else {1})
    assert len(list(server_splits(policy))) == (3 if policy.num_experts else 2)


def test_a_sample_lasts_from_the_first_rank_s_beginning_to_the_last_one_s_end() -> None:
    assert together([[(1.0, 2.0), (5.0, 6.0)], [(1.5, 4.0), (4.5, 5.5)]]) == [3.0, 1.5]


def test_export_is_compared_with_the_memcpy_by_medians() -> None:
    seconds = {EXPORT: [3.0, 9.0, 4.0], TWO_PASSES: [3.0], MEMCPY: [2.0], MEMCPY_BY_THREADS: [1.0], SUM: [1.0]}

    assert ratios(seconds) == {
        "export_over_memcpy": 2.0,
        "export_in_two_passes_over_memcpy": 1.5,
        "checksum_over_memcpy": 0.5,
        "export_over_memcpy_by_threads": 4.0,
    }
