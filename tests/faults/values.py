"""Values of the registry as the checker reads them: only what it judges, so that a value may grow without it."""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Phase = Literal["Train", "Infer"]


class View(BaseModel):
    """A part of a value of the registry; unknown fields are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class MasterValue(View):
    """`master`."""

    kind: Literal["master"] = "master"
    incarnation: str


class DesiredValue(View):
    """`desired`."""

    kind: Literal["desired"] = "desired"
    epoch: int
    phase: Phase
    generation: int
    iteration: int = 0
    deadline: float = 0.0
    lineage: str = ""


class MemberValue(View):
    """`members/<pod>/<role>`."""

    kind: Literal["member"] = "member"
    incarnation: str


class SpanValue(View):
    """One stage of a switch."""

    stage: str
    started_at: float
    seconds: float
    waits: bool = False


class StatusValue(View):
    """`status/<pod>/<role>`."""

    kind: Literal["status"] = "status"
    incarnation: str
    epoch: int
    state: str
    stage: str = ""
    generation: int | None = None
    stages: tuple[SpanValue, ...] = ()
    device_bytes: int | None = None
    error: str | None = None


class LayoutValue(View):
    """`weights/<g>/layout`."""

    kind: Literal["layout"] = "layout"
    generation: int
    lineage: str = ""
    shards: tuple[str, ...]


class PieceValue(View):
    """A piece of a shard."""

    tensor: str
    offset_bytes: int
    num_bytes: int
    xxh3: int


class ShardValue(View):
    """`weights/<g>/shards/<pod>/<n>`."""

    kind: Literal["shard"] = "shard"
    generation: int
    incarnation: str
    lineage: str = ""
    segment: str
    pieces: tuple[PieceValue, ...] = ()


class PublishedValue(View):
    """`weights/published`."""

    kind: Literal["published"] = "published"
    generation: int
    lineage: str = ""


class ProgressValue(View):
    """`progress`."""

    kind: Literal["progress"] = "progress"
    activity: str = ""
    iteration: int = 0
    completed_trajectories: int = 0
    error: str | None = None


class OtherValue(View):
    """Anything else, or a value that cannot be read."""

    kind: Literal["other"] = "other"
    text: str


Value = Annotated[
    MasterValue
    | DesiredValue
    | MemberValue
    | StatusValue
    | LayoutValue
    | ShardValue
    | PublishedValue
    | ProgressValue
    | OtherValue,
    Field(discriminator="kind"),
]


def parse_value(key: str, text: str) -> Value:
    """Return the value of `key`, a key without the job's prefix. What cannot be read becomes an OtherValue."""
    model = _model_of(key)
    if model is OtherValue:
        return OtherValue(text=text)
    try:
        found = json.loads(text)
        if model is PublishedValue and isinstance(found, int):
            return PublishedValue(generation=found)
        value: Value = model.model_validate(found)
    except ValueError:
        return OtherValue(text=text)
    return value


def _model_of(key: str) -> "type[Value]":
    words = key.split("/")
    match words:
        case ["master"]:
            return MasterValue
        case ["desired"]:
            return DesiredValue
        case ["progress"]:
            return ProgressValue
        case ["members", _, _]:
            return MemberValue
        case ["status", _, _]:
            return StatusValue
        case ["weights", "published"]:
            return PublishedValue
        case ["weights", _, "layout"]:
            return LayoutValue
        case ["weights", _, "shards", _, _]:
            return ShardValue
    return OtherValue
