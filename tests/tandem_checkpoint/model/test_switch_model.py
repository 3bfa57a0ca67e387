"""What spin shows of the switch protocol, exhaustively, and that it would find mistakes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tandem_checkpoint.switch.protocol import TABLES, Action
from tests.tandem_checkpoint.model.promela_table import ordered_rows
from tests.tandem_checkpoint.model.spin import MISSING, Check, Verdict, find_tools, kinds_of_faults, mistakes, run_spin

pytestmark = [pytest.mark.spin, pytest.mark.skipif(find_tools() is None, reason=MISSING)]

EXCLUSIVE_DEVICE = "exclusive_device_broken"
ONE_GENERATION = "one_generation_broken"
FENCING = "fencing_broken"
IDEMPOTENCE = "idempotence_broken"
PROGRESS = "progress_broken"
OF_MEMBERS = ("KILLS", "LOST_LEASES", "ENDED_CHILDREN", "ERRORS", "LATE", "DAMAGE", "STOPS")
MOST_SECONDS = 1800.0
PLANTED = {
    "TOKEN_BEFORE_DEVICES": EXCLUSIVE_DEVICE,
    "EPOCHS_NOT_COMPARED": IDEMPOTENCE,
    "MASTER_NOT_COMPARED": FENCING,
    "BINDS_TOO_EARLY": ONE_GENERATION,
    "WRITES_AGAIN": ONE_GENERATION,
    "EXPORTS_WITHOUT_LEASE": FENCING,
    "TRUSTS_ITS_SEGMENT": PROGRESS,
    "SHARDS_OF_ANY_EPOCH": PROGRESS,
    "BUILDS_TOGETHER": PROGRESS,
}
"""Each mistake with what it breaks. The last three were in the code until the model found them."""


def test_without_faults_every_switch_arrives_and_nothing_goes_round_in_circles(tmp_path: Path) -> None:
    verdict = run_spin(Check(faults=0, cycles=True), tmp_path)

    assert (verdict.broken, verdict.exhaustive) == (None, True)


def test_with_any_one_fault_all_invariants_hold_and_every_switch_arrives(tmp_path: Path) -> None:
    verdict = run_spin(Check(faults=1, cycles=True), tmp_path)

    assert (verdict.broken, verdict.exhaustive) == (None, True)


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_caught_and_named(tmp_path: Path, mistake: str) -> None:
    verdict = run_spin(Check(faults=1, mistake=mistake), tmp_path)

    assert verdict.broken == PLANTED[mistake]


def test_every_mistake_of_the_model_is_planted_here() -> None:
    assert set(PLANTED) == set(mistakes())


def test_the_model_knows_the_kinds_of_faults_that_are_asked_for() -> None:
    assert set(kinds_of_faults()) == {*OF_MEMBERS, "MASTERS", "ALL"}


def test_with_any_two_crashes_or_lost_leases_all_invariants_hold_and_every_switch_arrives(tmp_path: Path) -> None:
    kinds = ("KILLS", "LOST_LEASES")

    verdict = run_spin(Check(faults=2, kinds=kinds, more_kinds=kinds), tmp_path)

    assert (verdict.broken, verdict.exhaustive) == (None, True)


@pytest.fixture(scope="module")
def two_faults(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Verdict]:
    """What spin says of any two faults of members, by the first one's kind."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in OF_MEMBERS}
    return {
        kind: run_spin(Check(faults=2, kinds=(kind,), more_kinds=OF_MEMBERS), folder, most_seconds=MOST_SECONDS)
        for kind, folder in folders.items()
    }


@pytest.mark.campaign
@pytest.mark.parametrize("first", OF_MEMBERS)
def test_with_any_two_faults_of_members_all_holds(two_faults: Mapping[str, Verdict], first: str) -> None:
    assert (two_faults[first].broken, two_faults[first].exhaustive) == (None, True)


@pytest.mark.campaign
def test_every_row_that_acts_is_carried_out_where_two_faults_may_happen(two_faults: Mapping[str, Verdict]) -> None:
    rows = dict(enumerate(ordered_rows()))
    acting = {number for number, row in rows.items() if TABLES[row[0]][row[1:]].action is not Action.KEEP_ON}

    carried_out = frozenset[int]().union(*(verdict.rows for verdict in two_faults.values()))

    assert {rows[number] for number in acting - carried_out} == set()


@pytest.mark.campaign
@pytest.mark.parametrize("kind", OF_MEMBERS)
@pytest.mark.parametrize("master_first", [True, False])
def test_with_a_fault_of_the_master_and_one_of_a_member_all_holds(
    tmp_path: Path, kind: str, *, master_first: bool
) -> None:
    first, second = ("MASTERS", kind) if master_first else (kind, "MASTERS")

    verdict = run_spin(Check(faults=2, kinds=(first,), more_kinds=(second,)), tmp_path, most_seconds=MOST_SECONDS)

    assert (verdict.broken, verdict.exhaustive) == (None, True)
