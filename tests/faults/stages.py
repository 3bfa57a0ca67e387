"""The stages of both directions, and the two phases between them: what an injection is aimed at."""

from dataclasses import dataclass

from tests.faults.values import Phase

PAUSE_SECONDS = 0.15
"""Stages that are over sooner are stretched by this, or nothing would ever hit them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one container, or a phase that runs."""

    name: str
    phase: Phase
    """Phase that it leads into, or that runs."""
    container: str
    """Container whose engine goes through it; empty for a phase."""

    @property
    def is_phase(self) -> bool:
        return not self.container


TO_INFER = (
    Stage("drain", "Infer", "trainer"),
    Stage("export", "Infer", "trainer"),
    Stage("offload", "Infer", "trainer"),
    Stage("publish", "Infer", "master"),
    Stage("prepare", "Infer", "rollout"),
    Stage("verify", "Infer", "rollout"),
    Stage("start", "Infer", "rollout"),
    Stage("load", "Infer", "rollout"),
    Stage("ready", "Infer", "rollout"),
)
TO_TRAIN = (
    Stage("abort", "Train", "rollout"),
    Stage("stop", "Train", "rollout"),
    Stage("reload", "Train", "trainer"),
    Stage("ready", "Train", "trainer"),
)
SERVING = Stage("serving", "Infer", "")
TRAINING = Stage("training", "Train", "")
FETCH = Stage("fetch", "Infer", "rollout")
"""Of a rollout-only pod, in place of verify."""
ALL_STAGES = (*TO_INFER, SERVING, *TO_TRAIN, TRAINING)
WITH_A_SERVER = (*TO_INFER[5:], SERVING, *TO_TRAIN[:2])
"""Stages in which a server runs."""


def label(stage: Stage) -> str:
    """Return how a stage is called in tables: both directions have one that is called ready."""
    if stage.is_phase:
        return stage.name
    return f"{'train→infer' if stage.phase == 'Infer' else 'infer→train'} {stage.name}"
