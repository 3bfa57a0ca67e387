"""A running job as plain lines, one an event, for logs and pipes."""

from tandem_api.history import EvaluationRecord, IterationRecord, RunEnded, SwitchRecord
from tandem_api.job.status import MANY_SILENT_ITERATIONS, describe_silence
from tandem_api.registry import MemberState
from tandem_cli.live.state import LiveState
from tandem_cli.live.wording import evaluation_text, member_text, role_text, stage_texts, waiting_text
from tandem_cli.report.quantity import ARROWS, fixed_text, seconds_text, signed_text, tiny_text


def lines_for(old: LiveState, new: LiveState) -> list[str]:
    """Return the lines, without newlines, that tell what happened between two states, in the order of a job's life."""
    return [
        *_waiting(old, new),
        *(_switch(switch) for switch in _new_switches(old, new)),
        *_self_test(old, new),
        *(evaluation_text(record) for record in _new_evaluations(old, new)),
        *(_iteration(record, new) for record in _new_iterations(old, new)),
        *_silence(old, new),
        *_phase(old, new),
        *_failures(old, new),
        *_end(old, new),
    ]


def _waiting(old: LiveState, new: LiveState) -> list[str]:
    before, after = waiting_text(old), waiting_text(new)
    return [after] if after is not None and after != before else []


def _self_test(old: LiveState, new: LiveState) -> list[str]:
    before, after = (state.progress.self_test if state.progress else "" for state in (old, new))
    return [after] if after and after != before else []


def _silence(old: LiveState, new: LiveState) -> list[str]:
    before, after = (state.progress.silent_iterations if state.progress else 0 for state in (old, new))
    return [describe_silence(after)] if before < MANY_SILENT_ITERATIONS <= after else []


def _phase(old: LiveState, new: LiveState) -> list[str]:
    desired = new.desired
    if desired is None or desired == old.desired:
        return []
    return [f"phase {desired.phase}: epoch {desired.epoch}, generation {desired.generation}"]


def _new_switches(old: LiveState, new: LiveState) -> list[SwitchRecord]:
    known = {(record.epoch, record.started_at) for record in old.history.switches}
    return [record for record in new.history.switches if (record.epoch, record.started_at) not in known]


def _new_iterations(old: LiveState, new: LiveState) -> list[IterationRecord]:
    known = {(record.iteration, record.at) for record in old.history.iterations}
    return [record for record in new.history.iterations if (record.iteration, record.at) not in known]


def _new_evaluations(old: LiveState, new: LiveState) -> list[EvaluationRecord]:
    known = {(record.name, record.generation, record.at) for record in old.history.evaluations}
    return [record for record in new.history.evaluations if (record.name, record.generation, record.at) not in known]


def _switch(switch: SwitchRecord) -> str:
    first = " (first)" if switch.first else ""
    head = f"switch {switch.epoch} {ARROWS[switch.direction]} {seconds_text(switch.seconds)}{first}"
    stages = " · ".join(stage_texts(switch))
    return f"{head}: {stages}" if stages else head


def _iteration(record: IterationRecord, state: LiveState) -> str:
    gain = record.reward - state.history.iterations[0].reward
    return "  ".join(
        (
            f"iteration {record.iteration}/{state.iterations}",
            f"reward {fixed_text(record.reward, 3)} ({signed_text(gain, 3)})",
            f"length {fixed_text(record.response_tokens, 1)} tokens",
            f"{fixed_text(record.tokens_per_second, 0)} tokens/s",
            f"KL {tiny_text(record.kl)}",
            f"|Δlogp| {tiny_text(record.max_abs_logprob_difference)}",
            seconds_text(record.seconds),
        )
    )


def _failures(old: LiveState, new: LiveState) -> list[str]:
    """Members that failed since; one that fails again after a restart is told again."""
    return [
        f"{pod} {role_text(role)} {member_text(status)}"
        for (pod, role), status in sorted(new.statuses.items())
        if status.state == MemberState.FAILED and old.statuses.get((pod, role)) != status
    ]


def _end(old: LiveState, new: LiveState) -> list[str]:
    lines = [f"error: {new.error}"] if new.error is not None and new.error != old.error else []
    if new.ended is not None and new.ended != old.ended:
        lines.append(_ended(new.ended, new))
    return lines


def _ended(ended: RunEnded, state: LiveState) -> str:
    return f"{ended.result.lower()} after {state.complete_iterations} of {state.iterations} iterations"
