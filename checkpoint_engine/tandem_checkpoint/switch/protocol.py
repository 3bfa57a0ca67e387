"""The switch protocol: what a member does at each event, as a table. The member executes it as it stands.

A member is in one state. An event comes: the master's word, the end of the running action, or something that went
wrong. The table says which action runs next and in which state. Any other pair of state and event raises ProtocolError.

* **Epochs, fencing.** The master's word counts where its epoch is newer than the member's and the master's key is
there; any
  other word is STALE, and changes nothing, in every state (invariants 5 and 7).
* **Deadlines.** A word has one. Past it the running action is cancelled and the member is Failed; the next word is
acted on.
* **Incarnations and leases.** A member whose lease is gone stops serving and training, and comes back under a new lease
  with a new incarnation, at epoch 0: whatever `desired` says then is newer, so it rejoins from the registry alone.
* **Idempotence.** Every action may run again for the same word: exporting what is exported registers it once more,
taking a
  token that is held is nothing, reloading what is not parked is nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from tandem_api.registry import MemberState, Role


class State(StrEnum):
    """Where a member is."""

    STARTING = "Starting"
    IDLE = "Idle"
    """A trainer that holds or has parked its weights; a server's engine without servers."""
    DRAINING = "Draining"
    EXPORTING = "Exporting"
    OFFLOADING = "Offloading"
    TAKING = "Taking"
    """Waiting for the token."""
    RELOADING = "Reloading"
    TRAINING = "Training"
    PREPARING = "Preparing"
    GATHERING = "Gathering"
    """Waiting until the generation is published and in this pod, and comparing its checksums."""
    LOADING = "Loading"
    SERVING = "Serving"
    REVIVING = "Reviving"
    """A server has ended by itself; another one takes its place with the same weights."""
    ABORTING = "Aborting"
    STOPPING = "Stopping"
    FAILED = "Failed"
    REJOINING = "Rejoining"
    ENDED = "Ended"


class Event(StrEnum):
    """What can happen to a member."""

    INFER = "infer"
    """The word of a living master, of a newer epoch: Infer."""
    TRAIN = "train"
    """The same: Train."""
    STALE = "stale"
    """A word of an epoch that is not newer, or without a living master."""
    DONE = "done"
    """The action of this state has succeeded."""
    ERROR = "error"
    """It has failed."""
    DEADLINE = "deadline"
    """The word's deadline has passed."""
    CHILD_ENDED = "childEnded"
    """A process has ended that is needed: a rank, here or in another pod of the group; a server."""
    CRASH_LOOP = "crashLoop"
    """It has ended too often in too short a time."""
    LEASE_LOST = "leaseLost"
    """The registry has dropped this member."""
    TERMINATED = "terminated"
    """SIGTERM."""


class Action(StrEnum):
    """What a member does on its way into a state."""

    NOTHING = "nothing"
    KEEP_ON = "keepOn"
    """The running action goes on; the word is looked at again after it."""
    DRAIN = "drain"
    """Take no more batches; wait for the running one."""
    EXPORT = "export"
    """Write the idle segment and register layout and shards."""
    OFFLOAD = "offload"
    """Free the devices, then give the token back."""
    TAKE = "take"
    """Wait for the token."""
    RELOAD = "reload"
    """Take the weights back to the devices; restore the word's generation where another one is held."""
    TRAIN = "train"
    """Accept batches of this epoch."""
    PREPARE = "prepare"
    """Have servers that wait for their weights."""
    GATHER = "gather"
    """Wait until the generation is published and all of it is in this pod; compare the checksums."""
    LOAD = "load"
    """Start the engine, bind the weights, answer."""
    SERVE = "serve"
    """Answer until told otherwise."""
    REVIVE = "revive"
    """Start the servers that have ended again, with the weights that are bound."""
    ABORT = "abort"
    """End all generation; partial answers go back."""
    STOP = "stop"
    """Free the devices, then give the token back."""
    RESTART = "restart"
    """Register where that is not so any more; kill what is left of the group and start it anew."""
    FAIL = "fail"
    """Clean up and report the cause."""
    REJOIN = "rejoin"
    """Stop serving and training; take a new lease and a new incarnation; register what is held."""
    END = "end"
    """Free the devices, end all children."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event leads to."""

    action: Action
    state: State


Rows = dict[tuple[State, Event], Transition]
Table = Mapping[tuple[State, Event], Transition]


class ProtocolError(Exception):
    """An event came in a state in which it cannot come: a bug of ours."""


RESTING: Mapping[Role, frozenset[State]] = {
    "train": frozenset({State.IDLE, State.TRAINING, State.FAILED}),
    "rollout": frozenset({State.IDLE, State.SERVING, State.FAILED}),
}
"""States that only an event from outside ends."""

PUBLIC: Mapping[State, MemberState] = {
    State.STARTING: MemberState.STARTING,
    State.REJOINING: MemberState.STARTING,
    State.IDLE: MemberState.IDLE,
    State.TRAINING: MemberState.TRAINING,
    State.SERVING: MemberState.SERVING,
    State.FAILED: MemberState.FAILED,
    State.ENDED: MemberState.FAILED,
}
"""What `status` says of a state; every other one is Switching."""

TO_INFER: Mapping[Role, tuple[tuple[Action, State], ...]] = {
    "train": (
        (Action.DRAIN, State.DRAINING),
        (Action.EXPORT, State.EXPORTING),
        (Action.OFFLOAD, State.OFFLOADING),
        (Action.NOTHING, State.IDLE),
    ),
    "rollout": (
        (Action.PREPARE, State.PREPARING),
        (Action.GATHER, State.GATHERING),
        (Action.TAKE, State.TAKING),
        (Action.LOAD, State.LOADING),
        (Action.SERVE, State.SERVING),
    ),
}
"""The way from training to inference."""

TO_TRAIN: Mapping[Role, tuple[tuple[Action, State], ...]] = {
    "train": (
        (Action.TAKE, State.TAKING),
        (Action.RELOAD, State.RELOADING),
        (Action.TRAIN, State.TRAINING),
    ),
    "rollout": (
        (Action.ABORT, State.ABORTING),
        (Action.STOP, State.STOPPING),
        (Action.NOTHING, State.IDLE),
    ),
}
"""The way from inference to training."""

INTERRUPTIBLE: Mapping[Role, frozenset[State]] = {
    "train": frozenset({State.TAKING}),
    "rollout": frozenset({State.PREPARING, State.GATHERING, State.TAKING, State.LOADING, State.REVIVING}),
}
"""States that a newer word ends at once: nothing is lost with what they do."""


def public_state(state: State) -> MemberState:
    """Return what others are told of a state."""
    return PUBLIC.get(state, MemberState.SWITCHING)


def next_transition(table: Table, state: State, event: Event) -> Transition:
    """Return what the table says; raise ProtocolError for a pair that is not in it."""
    try:
        return table[state, event]
    except KeyError:
        raise ProtocolError(f"event {event} cannot come in state {state}") from None


def build_table(role: Role) -> Table:
    """Return the whole protocol of a role."""
    rows = {**_life(), **_failures(role)}
    for word, way in ((Event.INFER, TO_INFER[role]), (Event.TRAIN, TO_TRAIN[role])):
        rows |= _way(word, way, role)
    rows |= _children_of_trainer() if role == "train" else _children_of_rollout()
    return rows | _everywhere({state for state, _ in rows})


def stages_of(role: Role) -> frozenset[State]:
    """Return the states in which an action of a switch runs."""
    ways = {state for way in (TO_INFER[role], TO_TRAIN[role]) for _, state in way}
    return frozenset(ways - RESTING[role]) | ({State.REVIVING} if role == "rollout" else frozenset())


def _life() -> Rows:
    """The start and the return after a lost lease: words wait until they are over."""
    rows = {
        (state, event): Transition(Action.KEEP_ON, state)
        for state in (State.STARTING, State.REJOINING)
        for event in (Event.INFER, Event.TRAIN)
    }
    for state in (State.STARTING, State.REJOINING):
        rows[state, Event.DONE] = Transition(Action.NOTHING, State.IDLE)
        rows[state, Event.ERROR] = Transition(Action.END, State.ENDED)
    return rows


def _way(word: Event, way: tuple[tuple[Action, State], ...], role: Role) -> Rows:
    """One direction: into its first stage from wherever a member rests, then from stage to stage."""
    first = Transition(*way[0])
    rows = {(state, word): first for state in RESTING[role] | INTERRUPTIBLE[role]}
    rows |= {(state, word): Transition(Action.KEEP_ON, state) for state in stages_of(role) - INTERRUPTIBLE[role]}
    rows |= {(state, Event.DONE): Transition(*after) for (_, state), after in pairwise(way)}
    return rows


def _failures(role: Role) -> Rows:
    """What ends a stage before its time."""
    failed = Transition(Action.FAIL, State.FAILED)
    return {(stage, event): failed for stage in stages_of(role) for event in (Event.ERROR, Event.DEADLINE)}


def _children_of_trainer() -> Rows:
    """A rank that ends takes its whole group with it: all of them start anew, whatever was going on."""
    states = stages_of("train") | RESTING["train"] | {State.STARTING}
    rows = {(state, Event.CHILD_ENDED): Transition(Action.RESTART, State.STARTING) for state in states}
    rows |= {(state, Event.CRASH_LOOP): Transition(Action.END, State.ENDED) for state in states}
    return rows | {
        (State.REJOINING, event): Transition(Action.KEEP_ON, State.REJOINING)
        for event in (Event.CHILD_ENDED, Event.CRASH_LOOP)
    }


def _children_of_rollout() -> Rows:
    """A server that ends is replaced: on the way by another try, while serving with the same weights."""
    again = Transition(Action.PREPARE, State.PREPARING)
    revive = Transition(Action.REVIVE, State.REVIVING)
    on_the_way = (State.PREPARING, State.GATHERING, State.TAKING, State.LOADING)
    rows = {(state, Event.CHILD_ENDED): again for state in on_the_way}
    rows |= {(state, Event.CHILD_ENDED): revive for state in (State.SERVING, State.REVIVING)}
    rows[State.REVIVING, Event.DONE] = Transition(Action.SERVE, State.SERVING)
    failed = Transition(Action.FAIL, State.FAILED)
    rows |= {(state, Event.CRASH_LOOP): failed for state in (*on_the_way, State.SERVING, State.REVIVING)}
    rows[State.STARTING, Event.CHILD_ENDED] = Transition(Action.RESTART, State.STARTING)
    rows[State.STARTING, Event.CRASH_LOOP] = Transition(Action.END, State.ENDED)
    for state in (State.IDLE, State.FAILED, State.ABORTING, State.STOPPING, State.REJOINING):
        for event in (Event.CHILD_ENDED, Event.CRASH_LOOP):
            rows[state, event] = Transition(Action.KEEP_ON, state)
    return rows


def _everywhere(states: set[State]) -> Rows:
    """What can happen in every state."""
    rows = {(state, Event.STALE): Transition(Action.KEEP_ON, state) for state in states}
    rows |= {(state, Event.LEASE_LOST): Transition(Action.REJOIN, State.REJOINING) for state in states}
    rows[State.STARTING, Event.LEASE_LOST] = Transition(Action.RESTART, State.STARTING)
    return rows | {(state, Event.TERMINATED): Transition(Action.END, State.ENDED) for state in states}


TABLES: Mapping[Role, Table] = {"train": build_table("train"), "rollout": build_table("rollout")}
"""The protocol."""
