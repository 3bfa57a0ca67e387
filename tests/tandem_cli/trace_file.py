"""The Chrome trace event format, as far as we write it, checked on the JSON alone."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

Event = Mapping[str, Any]

FIELDS = {
    "M": {"ph", "name", "pid", "tid", "args"},
    "X": {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"},
    "s": {"ph", "name", "cat", "id", "pid", "tid", "ts"},
    "f": {"ph", "name", "cat", "id", "pid", "tid", "ts", "bp"},
}
"""Exactly the fields that an event of each phase has here; the format asks for all of them."""
TYPES: Mapping[str, tuple[type, ...]] = {
    "ph": (str,), "name": (str,), "cat": (str,), "pid": (int,), "tid": (int,), "id": (int,), "args": (dict,),
    "ts": (int, float), "dur": (int, float), "bp": (str,),
}  # fmt: skip


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what a viewer of traces could not load, or would not show where it belongs."""
    events = document["traceEvents"]
    wrong = [f"{event}: {problem}" for event in events for problem in _problems_of_fields(event)]
    return wrong or [*_unnamed(events), *_overlaps(events), *_loose_arrows(events)]


def slices(document: Mapping[str, Any], **fields: object) -> list[Event]:
    """Return the complete events with these fields, in order of time."""
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    chosen = [event for event in events if all(event[key] == value for key, value in fields.items())]
    return sorted(chosen, key=lambda event: float(event["ts"]))


def names(document: Mapping[str, Any], kind: str) -> dict[tuple[int, int], str]:
    """Return the names of processes (kind `process_name`) or of threads, by process and thread."""
    events = [event for event in document["traceEvents"] if event["name"] == kind]
    return {(event["pid"], event["tid"]): event["args"]["name"] for event in events}


def arrows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names of the events that each arrow connects, by its number."""
    events = document["traceEvents"]
    tails = {event["id"]: event for event in events if event["ph"] == "s"}
    heads = {event["id"]: event for event in events if event["ph"] == "f"}
    return [(_holder(tails[number], events), _holder(heads[number], events)) for number in sorted(tails)]


def _problems_of_fields(event: Event) -> list[str]:
    wanted = FIELDS.get(event.get("ph", ""))
    if wanted is None:
        return ["no phase that we write"]
    found = [f"fields {sorted(wanted ^ set(event))}"] if wanted != set(event) else []
    found += [f"{key} is {value!r}" for key, value in event.items() if not isinstance(value, TYPES[key])]
    found += [f"{key} is negative" for key in ("ts", "dur") if event.get(key, 0) < 0]
    return found


def _unnamed(events: list[Event]) -> list[str]:
    """Return processes and threads that something happens on and nobody named."""
    document = {"traceEvents": events}
    threads, processes = names(document, "thread_name"), names(document, "process_name")
    used = {(event["pid"], event["tid"]) for event in events if event["ph"] != "M"}
    return [
        *(f"no name for thread {place}" for place in sorted(used - threads.keys())),
        *(f"no name for process {process}" for process, _ in sorted(used) if (process, 0) not in processes),
    ]


def _overlaps(events: list[Event]) -> list[str]:
    by_thread: defaultdict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            by_thread[event["pid"], event["tid"]].append(event)
    ordered = [sorted(thread, key=lambda event: (event["ts"], event["dur"])) for thread in by_thread.values()]
    return [
        f"{one['name']} at {one['ts']} overlaps {other['name']}"
        for thread in ordered
        for one, other in pairwise(thread)
        if one["ts"] + one["dur"] > other["ts"] + 1e-2
    ]


def _loose_arrows(events: list[Event]) -> list[str]:
    ends = {kind: {event["id"]: event for event in events if event["ph"] == kind} for kind in ("s", "f")}
    wrong = [f"arrow {number} has one end" for number in ends["s"].keys() ^ ends["f"].keys()]
    for number, tail in ends["s"].items():
        head = ends["f"].get(number, tail)
        if head["ts"] < tail["ts"]:
            wrong.append(f"arrow {number} goes back in time")
        wrong += [f"arrow {number} hangs on nothing" for end in (tail, head) if not _holder(end, events)]
    return wrong


def _holder(end: Event, events: list[Event]) -> str:
    """Return the name of the event that an end of an arrow hangs on; empty where there is none."""
    around = [
        event["name"]
        for event in events
        if event["ph"] == "X"
        and (event["pid"], event["tid"]) == (end["pid"], end["tid"])
        and event["ts"] - 1e-2 <= end["ts"] <= event["ts"] + event["dur"] + 1e-2
    ]
    return str(around[0]) if around else ""
