"""What the live view and the plain log both say, in the same words."""

from collections.abc import Iterable

from tandem_api.history import EvaluationRecord, SwitchRecord
from tandem_api.registry import MemberState, MemberStatus, Role
from tandem_cli.live.state import LiveState
from tandem_cli.report.quantity import digits_text, fixed_text, plural_text
from tandem_cli.report.stages import slowest_seconds

_STATES = {
    MemberState.STARTING: "starting",
    MemberState.IDLE: "asleep",
    MemberState.SWITCHING: "switching",
    MemberState.SERVING: "serving",
    MemberState.TRAINING: "training",
    MemberState.FAILED: "failed",
}


def stage_texts(switch: SwitchRecord) -> list[str]:
    """Return the seconds of the slowest member in each stage: drain 0.02, export 0.06."""
    return [f"{stage} {digits_text(seconds)}" for stage, seconds in slowest_seconds(switch).items()]


def evaluation_text(record: EvaluationRecord) -> str:
    """Return a result in one line: evaluation math500 of generation 10: pass@1 0.41, pass@4 0.63, ..."""
    passed = ", ".join(f"pass@{k} {fixed_text(value, 3)}" for k, value in record.pass_at.items())
    unscored = f", {record.unscored:,} not scored" if record.unscored else ""
    return (
        f"evaluation {record.name} of generation {record.generation}: {passed or 'no sample was scored'}"
        f", reward {fixed_text(record.mean_reward, 3)}, length {fixed_text(record.mean_tokens, 1)} tokens{unscored}"
    )


def member_text(status: MemberStatus) -> str:
    """Return what a member is doing: serving g12, switching: exporting, failed: out of memory."""
    word = _STATES[status.state]
    if status.state == MemberState.FAILED:
        return f"{word}: {status.error}" if status.error else word
    if status.state == MemberState.SWITCHING and status.stage:
        return f"{word}: {status.stage.lower()}"
    if status.state in (MemberState.SERVING, MemberState.TRAINING) and status.generation is not None:
        return f"{word} g{status.generation}"
    return word


def waiting_text(state: LiveState) -> str | None:
    """Return what is waited for before the first phase; None once the master has named a phase."""
    if state.desired is not None:
        return None
    if len(state.members) < state.expected_members:
        return f"starting: {len(state.members)} of {plural_text(state.expected_members, 'engine')} registered"
    activity = state.progress.activity if state.progress else "waiting for the master's first phase"
    return f"starting: all {plural_text(state.expected_members, 'engine')} registered, {activity}"


def late_members_text(state: LiveState) -> str:
    """Return which members a switch is waiting for, and in which stage they are."""
    if state.desired is None:
        return ""
    epoch = state.desired.epoch
    late = [
        f"{pod} {role_text(role)}{_stage_text(status)}"
        for (pod, role), status in sorted(state.awaited.items())
        if status.epoch < epoch or status.state == MemberState.SWITCHING
    ]
    return _shortened(late)


def role_text(role: Role) -> str:
    """Return what the container of a role is called in front of people."""
    return "trainer" if role == "train" else "server"


def _stage_text(status: MemberStatus) -> str:
    return f" ({status.stage.lower()})" if status.state == MemberState.SWITCHING and status.stage else ""


def _shortened(names: Iterable[str], limit: int = 3) -> str:
    everything = list(names)
    rest = len(everything) - limit
    return ", ".join(everything[:limit]) + (f" and {rest} more" if rest > 0 else "")
