"""How many requests an API server has had and from whom, and what a histogram says."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import orjson

WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
"""Verbs as the API server's metrics write them."""
AUDITED_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
"""The same as its audit log writes them."""
_REQUESTS = re.compile(r"^apiserver_request_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def writes(metrics: str) -> Counter[str]:
    """Return the requests that were to change something, by whomever, as `POST pods/binding`, each with its number.

    Leases are left out.
    """
    found: Counter[str] = Counter()
    for labels, value in _REQUESTS.findall(metrics):
        named = dict(_LABEL.findall(labels))
        if named["verb"] in WRITES and named["resource"] != "leases":
            found[" ".join([named["verb"], _target(named["resource"], named["subresource"])])] += int(float(value))
    return found


def quantile(metrics: str, histogram: str, share: float) -> float:
    """Return a quantile of a histogram without labels in its unit, linear inside a bucket; nan where it is empty."""
    lines = re.findall(rf'^{histogram}_bucket{{le="([^"]+)"}} (\S+)$', metrics, re.MULTILINE)
    buckets = [(float(limit.replace("+Inf", "inf")), float(count)) for limit, count in lines]
    wanted = share * buckets[-1][1] if buckets else 0.0
    below, counted = 0.0, 0.0
    for limit, count in buckets:
        if wanted and count >= wanted:
            inside = (wanted - counted) / (count - counted)
            return below if math.isinf(limit) else below + inside * (limit - below)
        below, counted = limit, count
    return math.nan


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The API server's log of what the operators ask, watches and leases left out."""

    path: Path

    def position(self) -> int:
        """Return the end of the log."""
        return self.path.stat().st_size if self.path.exists() else 0

    def requests(self, user: str, start: int) -> Counter[str]:
        """Return the user's requests from a position on, as `create pods`, each with its number."""
        if not self.path.exists():
            return Counter()
        with self.path.open("rb") as log:
            log.seek(start)
            events = [orjson.loads(line) for line in log]
        return Counter(_words(event) for event in events if event["user"]["username"] == user)


def _words(event: dict[str, dict[str, str]]) -> str:
    target = event.get("objectRef", {})
    return f"{event['verb']} {_target(target.get('resource', event['requestURI']), target.get('subresource', ''))}"


def _target(resource: object, subresource: str) -> str:
    return f"{resource}/{subresource}" if subresource else str(resource)
