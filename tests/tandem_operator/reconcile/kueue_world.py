"""A queue in the small world: it writes what Kueue 0.19 was seen to write, and one Workload is all it holds."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tandem_operator.reconcile.pods import write_time

Manifest = dict[str, Any]


@dataclass
class Kueue:
    """Kueue, with one queue."""

    workload: Manifest | None = None
    num_changes: int = 0

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Take a Workload, unless there is one."""
        if self.workload is None:
            self.workload = {**deepcopy(dict(manifest)), "status": {"conditions": []}}
            self.workload["metadata"]["uid"] = f"workload-{self.num_changes}"
        self._touch()

    def delete(self, uid: str) -> None:
        """Forget the Workload with this uid."""
        if self.workload is not None and self.workload["metadata"]["uid"] == uid:
            self.workload = None

    def patch_status(self, patch: Mapping[str, Any]) -> None:
        """Merge a patch of the status; nothing where it is about an older version."""
        if self.workload is None or patch["metadata"]["resourceVersion"] != self.version:
            return
        status = {**self.workload["status"], **deepcopy(patch["status"])}
        self.workload["status"] = {key: value for key, value in status.items() if value is not None}
        self._touch()

    def admit(self, now: datetime, flavor: str = "spot") -> None:
        """Give the Workload its quota and its nodes, if it waits for them."""
        if self.workload is None or self.says("QuotaReserved") or self.says("Finished"):
            return
        sets = [{"name": item["name"], "flavors": {"cpu": flavor}} for item in self.workload["spec"]["podSets"]]
        self.workload["status"]["admission"] = {"clusterQueue": "cluster", "podSetAssignments": sets}
        self._say("Evicted", False, "QuotaReserved", "", now)
        self._say("QuotaReserved", True, "QuotaReserved", "", now)
        self._say("Admitted", True, "Admitted", "The workload is admitted", now)

    def refuse(self, words: str, now: datetime) -> None:
        """Let the Workload wait, and say what for."""
        self._say("QuotaReserved", False, "Pending", words, now)

    def evict(self, now: datetime, reason: str = "Preempted") -> None:
        """Ask an admitted Workload to leave; its quota stays reserved until its owner gives it back."""
        if self.says("Admitted") and not self.says("Evicted"):
            self._say("Evicted", True, reason, "another job is more urgent", now)

    def says(self, kind: str) -> bool:
        """Return whether a condition of the Workload is true."""
        return self.reason_of(kind, "True") is not None

    def reason_of(self, kind: str, status: str) -> str | None:
        """Return the reason of a condition that has this status."""
        conditions = [] if self.workload is None else self.workload["status"]["conditions"]
        return next((item["reason"] for item in conditions if (item["type"], item["status"]) == (kind, status)), None)

    @property
    def version(self) -> str:
        assert self.workload is not None
        return str(self.workload["metadata"]["resourceVersion"])

    def _say(self, kind: str, holds: bool, reason: str, message: str, now: datetime) -> None:
        assert self.workload is not None
        status, conditions = "True" if holds else "False", self.workload["status"]["conditions"]
        others = [item for item in conditions if item["type"] != kind]
        said = {"type": kind, "status": status, "reason": reason, "message": message}
        self.workload["status"]["conditions"] = [*others, said | {"lastTransitionTime": write_time(now)}]
        self._touch()

    def _touch(self) -> None:
        assert self.workload is not None
        self.num_changes += 1
        self.workload["metadata"]["resourceVersion"] = str(self.num_changes)
