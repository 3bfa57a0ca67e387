"""Events of the Chrome trace format (JSON object format), as Perfetto and chrome://tracing load them.

A process of the trace is a pod, a thread a container of it. Times are in microseconds from the trace's own start.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Value = str | int | float | bool | None
Microseconds = Annotated[float, Field(ge=0)]


class TraceModel(BaseModel):
    """Base: closed, with the names of the format."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Name(TraceModel):
    """Arguments of a name."""

    name: str
    """What is shown."""


class SortIndex(TraceModel):
    """Arguments of a place."""

    sort_index: int
    """Lower is further up."""


class Metadata(TraceModel):
    """Names a process or a thread, or says where it stands."""

    ph: Literal["M"] = "M"
    """Kind of the event."""
    name: Literal["process_name", "process_sort_index", "thread_name", "thread_sort_index"]
    """What is said."""
    pid: int
    """Process."""
    tid: int
    """Thread; 0 where it is about the process."""
    args: Name | SortIndex
    """The name or the place."""


class Complete(TraceModel):
    """A stretch of time on one thread; two on the same thread never overlap."""

    ph: Literal["X"] = "X"
    """Kind of the event."""
    name: str
    """What is shown."""
    cat: Literal["work", "wait", "phase", "switch", "critical path"]
    """Category, to filter by."""
    pid: int
    """Process."""
    tid: int
    """Thread."""
    ts: Microseconds
    """Start."""
    dur: Microseconds
    """Duration."""
    args: Mapping[str, Value] = {}
    """What is shown when it is selected."""


class Flow(TraceModel):
    """One end of an arrow along the critical path; it hangs on the event of its thread that is open at its time."""

    name: Literal["critical path"] = "critical path"
    """Same at both ends."""
    cat: Literal["critical path"] = "critical path"
    """Same at both ends."""
    id: int
    """Number of the arrow."""
    pid: int
    """Process."""
    tid: int
    """Thread."""
    ts: Microseconds
    """Time."""


class FlowStart(Flow):
    """Tail of an arrow."""

    ph: Literal["s"] = "s"
    """Kind of the event."""


class FlowEnd(Flow):
    """Head of an arrow."""

    ph: Literal["f"] = "f"
    """Kind of the event."""
    bp: Literal["e"] = "e"
    """Hang on the event around it, not on the next one."""


Event = Annotated[Metadata | Complete | FlowStart | FlowEnd, Field(discriminator="ph")]


class Trace(TraceModel):
    """A whole file."""

    traceEvents: tuple[Event, ...]  # noqa: N815 - the format's name
    """Everything there is to see."""
    displayTimeUnit: Literal["ms", "ns"] = "ms"  # noqa: N815 - the format's name
    """Unit that times are shown in."""
    otherData: Mapping[str, Value] = {}  # noqa: N815 - the format's name
    """About the file."""
