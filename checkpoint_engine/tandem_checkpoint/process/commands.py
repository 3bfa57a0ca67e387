"""What an engine says to its children and what they answer: one JSON line each."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tandem_api.engine import Sample, StepMetrics
from tandem_api.resource import Resource
from tandem_api.weights import Piece


class Export(Resource):
    """To a rank: write your share of the weights into a segment. Answer: Exported."""

    kind: Literal["export"] = "export"
    """Discriminator."""
    segment: str
    """Path of the segment file."""


class Offload(Resource):
    """To a rank: free the device. Answer: Moved."""

    kind: Literal["offload"] = "offload"
    """Discriminator."""


class Reload(Resource):
    """To a rank: take the device again. Answer: Moved."""

    kind: Literal["reload"] = "reload"
    """Discriminator."""


class Train(Resource):
    """To a rank: its part of a batch. Answer: Trained."""

    kind: Literal["train"] = "train"
    """Discriminator."""
    max_logprob_difference: float
    """Refuse when trainer and server disagree by more, in nats."""
    steps: tuple[tuple[Sample, ...], ...]
    """Samples of this rank by optimizer step."""
    samples_per_step: tuple[int, ...]
    """Samples of each step over all ranks of the job."""


class Save(Resource):
    """To a rank: write the weights as a Hugging Face folder. Answer: Saved."""

    kind: Literal["save"] = "save"
    """Discriminator."""
    path: str
    """Folder to make."""


RankCommand = Annotated[Export | Offload | Reload | Train | Save, Field(discriminator="kind")]
RANK_COMMAND: TypeAdapter[RankCommand] = TypeAdapter(RankCommand)


class Ready(Resource):
    """From a rank: the model stands, on the device."""

    kind: Literal["ready"] = "ready"
    """Discriminator."""
    device_bytes: int
    """Device memory held."""


class Exported(Resource):
    """From a rank: what it wrote."""

    kind: Literal["exported"] = "exported"
    """Discriminator."""
    pieces: tuple[Piece, ...]
    """Its pieces, with checksums computed as the bytes were written."""


class Moved(Resource):
    """From a rank: the model left the device or came back."""

    kind: Literal["moved"] = "moved"
    """Discriminator."""
    device_bytes: int
    """Device memory held now."""


class Trained(Resource):
    """From a rank: metrics over all ranks."""

    kind: Literal["trained"] = "trained"
    """Discriminator."""
    max_abs_logprob_difference: float
    """Against the server's, nats."""
    kl: float
    """Mean over samples of L_old - L at the last step, nats."""
    steps: tuple[StepMetrics, ...]
    """By optimizer step."""
    num_tokens: int
    """Tokens passed forward, padding excluded."""


class Saved(Resource):
    """From a rank: the folder is complete."""

    kind: Literal["saved"] = "saved"
    """Discriminator."""
    num_bytes: int
    """Size of the weight files."""


class Refused(Resource):
    """From a rank: the command was not carried out, and the state is as before."""

    kind: Literal["refused"] = "refused"
    """Discriminator."""
    reason: str
    """Why, for people."""


RankAnswer = Annotated[Ready | Exported | Moved | Trained | Saved | Refused, Field(discriminator="kind")]
RANK_ANSWER: TypeAdapter[RankAnswer] = TypeAdapter(RankAnswer)


class Fork(Resource):
    """To the zygote, with the server's end of a channel attached: fork a server. Answer: Forked."""

    kind: Literal["fork"] = "fork"
    """Discriminator."""
    arguments: tuple[str, ...]
    """Command line of the server."""


class ZygoteReady(Resource):
    """From the zygote: everything is imported."""

    kind: Literal["zygoteReady"] = "zygoteReady"
    """Discriminator."""
    num_threads: int
    """Operating-system threads; more than one makes forking unsafe."""


class Forked(Resource):
    """From the zygote: the server's process."""

    kind: Literal["forked"] = "forked"
    """Discriminator."""
    pid: int
    """Process id; it leads its own group."""


class Exited(Resource):
    """From the zygote: a server has ended and is reaped."""

    kind: Literal["exited"] = "exited"
    """Discriminator."""
    pid: int
    """Process id."""
    returncode: int
    """Exit code, or minus the signal's number."""


ZygoteAnswer = Annotated[ZygoteReady | Forked | Exited, Field(discriminator="kind")]
ZYGOTE_ANSWER: TypeAdapter[ZygoteAnswer] = TypeAdapter(ZygoteAnswer)


class Go(Resource):
    """To a server: the devices are yours; bind this manifest."""

    kind: Literal["go"] = "go"
    """Discriminator."""
    manifest: str
    """Path of the manifest file."""


class Abort(Resource):
    """To a server: end all generation now, handing back what there is. Answer: aborted."""

    kind: Literal["abort"] = "abort"
    """Discriminator."""


ServerCommand = Annotated[Go | Abort, Field(discriminator="kind")]
SERVER_COMMAND: TypeAdapter[ServerCommand] = TypeAdapter(ServerCommand)


class ServerStep(Resource):
    """From a server: how far it is."""

    kind: Literal["step"] = "step"
    """Discriminator."""
    step: Literal["prepared", "loading", "loaded", "listening", "aborted"]
    """prepared: arguments parsed, port bound. loading: engine built, weights next. loaded: weights bound and checked.
    listening: answers requests. aborted: no request is running."""


class ServerFailed(Resource):
    """From a server: it cannot serve and ends."""

    kind: Literal["failed"] = "failed"
    """Discriminator."""
    reason: str
    """Why, for people."""


ServerAnswer = Annotated[ServerStep | ServerFailed, Field(discriminator="kind")]
SERVER_ANSWER: TypeAdapter[ServerAnswer] = TypeAdapter(ServerAnswer)
