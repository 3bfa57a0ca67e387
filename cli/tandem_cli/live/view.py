"""The live view: a handful of lines that tell how a running job is doing."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tandem_api.history import IterationRecord, SwitchRecord
from tandem_api.job.status import Direction, Phase
from tandem_api.registry import MemberState, MemberStatus, Progress, Role
from tandem_cli.live.flow import flow
from tandem_cli.live.sparkline import sparkline
from tandem_cli.live.state import LiveState
from tandem_cli.live.wording import late_members_text, member_text, role_text, stage_texts, waiting_text
from tandem_cli.report.quantity import ARROWS, clock_text, fixed_text, plural_text, seconds_text, signed_text, tiny_text
from tandem_cli.report.timeline import natural_order

_GAP = "   "
_LABEL = 13
"""Columns of a row's label, with a margin at either side."""
_MAX_PODS = 8
_PHASE_STYLES = {Phase.TRAIN: "bold blue", Phase.INFER: "bold yellow"}
_ROLES: tuple[Role, ...] = ("train", "rollout")
_STATE_STYLES = {
    MemberState.STARTING: "cyan",
    MemberState.IDLE: "dim",
    MemberState.SWITCHING: "magenta",
    MemberState.SERVING: "yellow",
    MemberState.TRAINING: "blue",
    MemberState.FAILED: "bold red",
}


def render(state: LiveState, now: float, width: int, hint: str) -> RenderableType:
    """Return the view of a job at a moment (Unix seconds) for a terminal so many columns wide."""
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(style="dim", no_wrap=True, width=_LABEL)
    rows.add_column(overflow="fold")
    body = width - _LABEL - 1
    for label, text in (
        *_learning_rows(state, body),
        *_now_rows(state, body),
        *_switch_rows(state, body),
        *_pod_rows(state, body),
    ):
        rows.add_row(f" {label}", text)
    parts: list[RenderableType] = [_header(state, now, width), Rule(style="dim"), rows]
    if state.error is not None:
        parts.append(Text(f" {state.error}", style="bold red"))
    parts.append(Text(f" {hint}", style="dim"))
    return Group(*parts)


def _header(state: LiveState, now: float, width: int) -> RenderableType:
    """One line with the elapsed time at the right edge; on a narrow terminal it breaks between the parts."""
    pieces = [
        Text(state.job, style="bold"),
        Text(f"iteration {state.complete_iterations}/{state.iterations}"),
        Text(f"generation {state.generation}"),
    ]
    if state.desired is not None:
        pieces.append(Text.assemble("phase ", _phase_text(state, state.desired.phase)))
        pieces.append(Text(f"epoch {state.desired.epoch}"))
    elapsed = Text(clock_text(now - state.started_at), style="bold")
    gap = _GAP if width >= 90 else "  "
    taken = 1 + sum(piece.cell_len + len(gap) for piece in pieces)
    elapsed.pad_left(max(0, width - taken - elapsed.cell_len))
    return Padding(flow([*pieces, elapsed], width - 1, gap), (0, 0, 0, 1))


def _phase_text(state: LiveState, phase: Phase) -> Text:
    if not state.is_switching:
        return Text(phase.value, style=_PHASE_STYLES[phase])
    direction = Direction.TRAIN_TO_INFER if phase == Phase.INFER else Direction.INFER_TO_TRAIN
    return Text(ARROWS[direction], style="bold magenta")


def _learning_rows(state: LiveState, width: int) -> list[tuple[str, Text]]:
    """Reward, length and throughput of the iterations so far."""
    records = state.history.iterations
    if not records:
        return []
    blocks = max(8, min(40, (width - 52) // 2))
    first, last = records[0], records[-1]
    reward = _spark([record.reward for record in records], blocks, "green")
    reward.append(f"  {fixed_text(last.reward, 2)}", style="bold")
    reward.append(f"  ({signed_text(last.reward - first.reward, 2)})", style="green")
    length = Text("length  ", style="dim")
    length.append_text(_spark([record.response_tokens for record in records], blocks // 2, "not dim cyan"))
    length.append(f"  {fixed_text(last.response_tokens, 1)} tokens", style="not dim")
    rate = Text("tokens/s  ", style="dim").append(fixed_text(last.tokens_per_second, 0), style="not dim")
    return [("reward", flow([reward, length, rate], width, _GAP)), *_held_out_rows(state, width, blocks // 2)]


def _held_out_rows(state: LiveState, width: int, blocks: int) -> list[tuple[str, Text]]:
    """pass@1 of each held-out set so far."""
    pieces = []
    for name in dict.fromkeys(record.name for record in state.history.evaluations):
        records = [record for record in state.history.evaluations if record.name == name]
        piece = Text(f"{name}  ", style="dim")
        piece.append_text(_spark([record.pass_1 for record in records], blocks, "not dim green"))
        piece.append(f"  pass@1 {fixed_text(records[-1].pass_1, 2)}", style="not dim bold")
        pieces.append(piece.append(f" (g{records[-1].generation})", style="not dim"))
    return [("held out", flow(pieces, width, _GAP))] if pieces else []


def _spark(values: Sequence[float], width: int, style: str) -> Text:
    return Text(sparkline(values, width), style=style)


def _now_rows(state: LiveState, width: int) -> list[tuple[str, Text]]:
    """What is going on: the wait before the first phase, or the rollout and what the master is doing."""
    waiting = waiting_text(state)
    if waiting is not None:
        return [("now", Text(waiting, style="cyan"))]
    rows = []
    if state.progress is not None and state.progress.wanted_trajectories:
        rows.append(("rollout", _rollout(state, state.progress, width)))
    if state.is_switching:
        late = late_members_text(state)
        rows.append(("now", Text(f"switching, waits for {late}" if late else "switching", style="magenta")))
    elif state.progress is not None:
        rows.append(("now", Text(state.progress.activity)))
    return rows


def _rollout(state: LiveState, progress: Progress, width: int) -> Text:
    cells = max(10, min(40, width - 60))
    done = min(1.0, progress.completed_trajectories / progress.wanted_trajectories)
    filled = int(done * cells)
    bar = Text("█" * filled, style="yellow").append("░" * (cells - filled), style="dim")
    bar.append(f"  {progress.completed_trajectories:,}/{progress.wanted_trajectories:,}", style="bold")
    unfinished = Text(f"{progress.unfinished_trajectories:,} unfinished")
    drift = [_drift(state.history.iterations[-1])] if state.history.iterations else []
    return flow([bar, unfinished, *drift], width, _GAP)


def _drift(record: IterationRecord) -> Text:
    """How far policy and engines are apart, by the last iteration."""
    drift = Text("KL ", style="dim").append(tiny_text(record.kl), style="not dim")
    return drift.append("   |Δlogp| ").append(tiny_text(record.max_abs_logprob_difference), style="not dim")


def _switch_rows(state: LiveState, width: int) -> list[tuple[str, Text]]:
    """The last switch of each direction, by stage."""
    last: dict[Direction, SwitchRecord] = {switch.direction: switch for switch in state.history.switches}
    known = [last[direction] for direction in Direction if direction in last]
    return [("last switch" if index == 0 else "", _switch(switch, width)) for index, switch in enumerate(known)]


def _switch(switch: SwitchRecord, width: int) -> Text:
    head = Text(f"{ARROWS[switch.direction]} ").append(seconds_text(switch.seconds), style="bold")
    head.append(" (first)" if switch.first else "", style="dim")
    stages = [Text(text, style="dim") for text in stage_texts(switch)]
    # The time stands apart from the first stage, as a heading does.
    opening = [head.append(_GAP).append_text(stages[0])] if stages else [head]
    return flow([*opening, *stages[1:]], width, " · ")


def _pod_rows(state: LiveState, width: int) -> list[tuple[str, Text]]:
    """One line a pod, failed ones first; the rest of a large job is counted."""
    by_pod: dict[str, dict[Role, MemberStatus]] = {}
    for (pod, role), status in state.statuses.items():
        by_pod.setdefault(pod, {})[role] = status
    ordered = sorted(by_pod, key=lambda pod: (not _has_failed(by_pod[pod]), natural_order(pod)))
    bodies = [_pod(pod, by_pod[pod], width) for pod in ordered[:_MAX_PODS]]
    if len(ordered) > _MAX_PODS:
        bodies.append(Text(f"and {plural_text(len(ordered) - _MAX_PODS, 'pod')} more", style="dim"))
    return [("pods" if index == 0 else "", body) for index, body in enumerate(bodies)]


def _has_failed(members: dict[Role, MemberStatus]) -> bool:
    return any(status.state == MemberState.FAILED for status in members.values())


def _pod(pod: str, members: dict[Role, MemberStatus], width: int) -> Text:
    pieces = [
        Text(f"{role_text(role)} ").append(member_text(members[role]), style=_STATE_STYLES[members[role].state])
        for role in _ROLES
        if role in members
    ]
    return flow([Text(pod), *pieces], width, "  ")
