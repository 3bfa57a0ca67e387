"""What of a spec may change after it was applied: little while the job runs, nearly all while it is suspended."""

from tandem_api.invariant import Transition

WHILE_SUSPENDED = "may not change while the job runs; set spec.suspend: true first, then change it"
NEVER = "may not change, because the job's state belongs to it; make another job"
KEPT_WHILE_RUNNING = (
    ("policy", ("dtype", "maxLengthTokens")),
    ("data", ()),
    ("rewards", ()),
    ("hybrid", ()),
    ("trainer", ()),
    ("rollout", ("image", "parallelism", "engineArgs", "deterministic", "resources")),
    ("rollout.elastic", ("minReplicas", "maxReplicas", "gpusPerPod")),
    ("recipe", ()),
    ("switch", ()),
    ("checkpoints", ("everyIterations", "keepLast", "keepEvery", "keepBest?")),
    ("trackers", ()),
    ("tls", ("secretName?",)),
    ("scheduling", ("gang", "queueName?", "topologyKey?")),
    ("podTemplate", ()),
)
"""Sections, and the fields of each; none means the whole section. A ? marks a field that may be absent."""
ALWAYS_KEPT = (("policy", ("model",)), ("checkpoints", ("claimName?",)))


def spec_transitions() -> tuple[Transition, ...]:
    """Return what an update of a spec must keep.

    Free at any time: suspend, activeDeadlineSeconds, ttlSecondsAfterFinished, failurePolicy, rollout.elastic.replicas
    and scheduling.priorityClassName.
    """
    running = [
        Transition(_field(section, fields), f"oldSelf.suspend || {_all_kept(section, fields)}", WHILE_SUSPENDED)
        for section, fields in KEPT_WHILE_RUNNING
    ]
    always = [Transition(_field(section, fields), _all_kept(section, fields), NEVER) for section, fields in ALWAYS_KEPT]
    return (*running, *always)


def _field(section: str, fields: tuple[str, ...]) -> str:
    """Return the field that a message names: the only one, else its section."""
    return f"{section}.{fields[0].removesuffix('?')}" if len(fields) == 1 else section


def _all_kept(section: str, fields: tuple[str, ...]) -> str:
    """Return the expression that all fields of a section are as before."""
    kept = [_kept(f"{section}.{field}") for field in fields] or [_kept(section)]
    return kept[0] if len(kept) == 1 else f"({' && '.join(kept)})"


def _kept(field: str) -> str:
    """Return the expression that one field is as before."""
    new, old = (f"{root}.{field.removesuffix('?')}" for root in ("self", "oldSelf"))
    if field.endswith("?"):
        return f"(has({new}) ? has({old}) && {new} == {old} : !has({old}))"
    return f"{new} == {old}"
