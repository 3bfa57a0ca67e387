"""What the frame makes of kopf's events and lists."""

import pytest
from yarl import URL

from tandem_operator.kube.manifest import Manifest
from tandem_operator.program.frame import JobLedger
from tandem_operator.program.kopf_session import Listing, Wiretap

Told = list[tuple[str, str, str | None]]
JOBS = URL("https://api:6443/apis/tandem.dev/v1alpha1/rljobs")
TEAM_JOBS = URL("https://api:6443/apis/tandem.dev/v1alpha1/namespaces/team/rljobs")


def job(name: str, uid: str, namespace: str = "team") -> Manifest:
    """Return as much of an RLJob as the frame looks at."""
    return {"metadata": {"namespace": namespace, "name": name, "uid": uid}}


def page(*jobs: Manifest, more: str = "") -> Manifest:
    """Return one page of a list."""
    return {"metadata": {"continue": more}, "items": list(jobs)}


class Ear:
    """A sink that remembers uids; None for a job that is gone."""

    def __init__(self) -> None:
        self.told: Told = []
        self.ledger = JobLedger(self._sink)

    def _sink(self, namespace: str, name: str, manifest: Manifest | None) -> None:
        metadata = None if manifest is None else manifest["metadata"]
        self.told.append((namespace, name, str(metadata["uid"]) if isinstance(metadata, dict) else None))


@pytest.fixture
def ear() -> Ear:
    return Ear()


def test_events_are_handed_on_and_a_deletion_is_none(ear: Ear) -> None:
    ear.ledger.take(False, job("digits", "1"))
    ear.ledger.take(True, job("digits", "1"))

    assert ear.told == [("team", "digits", "1"), ("team", "digits", None)]


def test_the_late_end_of_an_old_job_does_not_touch_the_new_one_of_its_name(ear: Ear) -> None:
    ear.ledger.take(False, job("digits", "1"))
    ear.ledger.take(False, job("digits", "2"))
    ear.ledger.take(True, job("digits", "1"))

    assert ear.told[-1] == ("team", "digits", "2")


def test_a_job_that_went_while_nobody_watched_is_missed_in_the_next_list(ear: Ear) -> None:
    ear.ledger.take(False, job("a", "1"))
    ear.ledger.take(False, job("b", "2"))

    ear.ledger.compare(Listing(None, {("team", "b"): "2"}))

    assert ear.told[2:] == [("team", "a", None)]


def test_the_list_of_one_namespace_says_nothing_about_another(ear: Ear) -> None:
    ear.ledger.take(False, job("a", "1", namespace="other"))

    ear.ledger.compare(Listing("team", {}))

    assert ear.told == [("other", "a", "1")]


def test_a_list_is_complete_with_its_last_page() -> None:
    listings: list[Listing] = []
    tap = Wiretap((), listings.append)

    tap.read(JOBS.with_query(limit="500"), page(job("a", "1"), more="token"))
    assert not tap.complete
    tap.read(JOBS.with_query({"limit": "500", "continue": "token"}), page(job("b", "2")))

    assert listings == [Listing(None, {("team", "a"): "1", ("team", "b"): "2"})]
    assert tap.complete


def test_a_list_that_begins_again_forgets_its_torn_beginning() -> None:
    listings: list[Listing] = []
    tap = Wiretap((), listings.append)

    tap.read(JOBS, page(job("a", "1"), more="token"))
    tap.read(JOBS, page(job("b", "2")))

    assert listings == [Listing(None, {("team", "b"): "2"})]


def test_every_namespace_must_be_listed() -> None:
    tap = Wiretap(("team", "other"), lambda _: None)

    tap.read(TEAM_JOBS, page())

    assert not tap.complete


def test_the_age_is_that_of_the_quietest_watch() -> None:
    times = iter([0.0, 0.0, 10.0, 50.0, 60.0])
    tap = Wiretap((), lambda _: None, lambda: next(times))
    next(times)

    tap.hear(JOBS.with_query(watch="true"))
    tap.hear(URL("https://api:6443/api/v1"))

    assert tap.age_seconds() == 40.0
