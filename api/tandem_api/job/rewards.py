"""How a response is scored: rules that ship with the master, functions and services of the user's."""

from enum import StrEnum

from pydantic import Field

from tandem_api.invariant import Guarded, Invariant
from tandem_api.job.text import EntryPoint, FilePath, Label, Quantity, WebAddress
from tandem_api.resource import Resource

MAX_WEIGHT = 1.0e6
MAX_SECONDS = 3600.0
MAX_PROCESSES = 256


class BuiltinReward(StrEnum):
    """Reward rules that ship with the master."""

    EXACT_MATCH = "ExactMatch"
    """1 if the decoded response without surrounding white space equals the answer, else 0 (report, section 2.3.1)."""


class PythonReward(Resource):
    """A function of the user's. It is called as `function(prompt=…, response=…, answer=…, problem_id=…)`, all text, in
    a process of its own, and returns a number; 1 is full marks."""

    entry_point: EntryPoint
    """`module:function`, as the master's container can import it."""
    folder: FilePath | None = None
    """Folder that modules are looked for in first, as the master's container sees it: `spec.podTemplate` mounts it.
    `tandem up` resolves a relative path against the folder of the RLJob file, and takes that folder where none is
    given."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=MAX_SECONDS)
    """Deadline of one call. A call that is late is killed; it has no value then, which is not the same as 0."""
    memory: Quantity = "2Gi"
    """Most address space of a process."""
    processes: int = Field(default=2, ge=1, le=MAX_PROCESSES)
    """Calls at once."""


class HttpReward(Resource):
    """A service of the user's. It is sent `{"problemId", "prompt", "response", "answer"}`, all text, by POST, and
    answers `{"reward": NUMBER}`; 1 is full marks."""

    url: WebAddress
    """Where it answers, as the master's container reaches it. The job's own token is not sent."""
    timeout_seconds: float = Field(default=30.0, gt=0, le=MAX_SECONDS)
    """Deadline of one question, with up to three tries."""
    requests: int = Field(default=32, ge=1, le=4096)
    """Questions at once."""


class RewardSpec(Guarded):
    """One term of the reward; the terms are added by weight."""

    name: Label
    """Name in metrics; unique in its list."""
    builtin: BuiltinReward | None = None
    """A rule that ships with the master."""
    python: PythonReward | None = None
    """A function."""
    http: HttpReward | None = None
    """A service."""
    weight: float = Field(default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)
    """Factor of this term in the sum."""

    invariants = (
        Invariant(
            field="",
            cel="[has(self.builtin), has(self.python), has(self.http)].filter(given, given).size() == 1",
            holds=lambda term: sum(given is not None for given in (term.builtin, term.python, term.http)) == 1,
            message="wants exactly one of builtin, python and http; write one, remove the others",
        ),
    )
