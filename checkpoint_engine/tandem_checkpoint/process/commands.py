"""What an engine says to its children and what they answer: one JSON line each."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tandem_api.engine import Sample, StepMetrics
from tandem_api.engine import SaveStep as SaveStep
from tandem_api.resource import Resource
from tandem_api.weights import BoxFingerprint, Piece, Shard


class RankPlace(Resource):
    """Where one rank stands among all ranks of the job."""

    rank: int
    """Number among all ranks."""
    world_size: int
    """Ranks of the job."""
    local_rank: int
    """Number within its pod: which device is its own."""
    pod: int = 0
    """Number of its pod among those of the job's ranks."""
    rendezvous_address: str
    """Where rank 0 listens for the others."""
    rendezvous_port: int
    """Its port."""


class FolderSource(Resource):
    """Weights in a Hugging Face folder: the initial policy or a checkpoint."""

    kind: Literal["folder"] = "folder"
    """Discriminator."""
    path: str
    """The folder."""


class SegmentSource(Resource):
    """Weights of a generation in this pod's segment."""

    kind: Literal["segment"] = "segment"
    """Discriminator."""
    path: str
    """The segment file."""
    shards: tuple[Shard, ...]
    """What this pod's ranks wrote into it: all of the policy together."""


WeightSource = Annotated[FolderSource | SegmentSource, Field(discriminator="kind")]


class Meet(Resource):
    """To a rank, once and before all else: find the others; takes no device memory. Answer: Met, once all are there."""

    kind: Literal["meet"] = "meet"
    """Discriminator."""
    place: RankPlace
    """Where this rank stands."""


class Build(Resource):
    """To a rank, once: build the model, after meeting the others where that has not been done yet. Answer: Ready."""

    kind: Literal["build"] = "build"
    """Discriminator."""
    place: RankPlace
    """Where this rank stands."""
    source: WeightSource
    """Weights to start with."""
    optimizer: str = ""
    """Folder of the optimizer's state that goes with them; empty where there is none."""


class Load(Resource):
    """To a rank that is on the device: hold other weights from now on, and forget the optimizer's state. Answer:
    Loaded."""

    kind: Literal["load"] = "load"
    """Discriminator."""
    source: WeightSource
    """Whence they come."""
    optimizer: str = ""
    """Folder of the optimizer's state that goes with them; empty where there is none."""


class Export(Resource):
    """To a rank: write your share of the weights into a segment. Answer: Exported."""

    kind: Literal["export"] = "export"
    """Discriminator."""
    segment: str
    """Path of the segment file."""


class Fingerprint(Resource):
    """To a rank, wherever its model is: tell the fingerprints of what it holds. Answer: Fingerprinted."""

    kind: Literal["fingerprint"] = "fingerprint"
    """Discriminator."""
    folder: str = ""
    """Hugging Face folder of which the rank shall take its part of the tensors too; empty: of none."""


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
    iteration: int = Field(default=1, ge=1)
    """Where in the run this is: the course of the learning rate."""
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
    step: SaveStep = SaveStep.ALL
    """What to do of it."""


class SaveOptimizer(Resource):
    """To a rank: your part in saving the optimizer's state. Answer: Saved."""

    kind: Literal["saveOptimizer"] = "saveOptimizer"
    """Discriminator."""
    checkpoint: str
    """Folder of the checkpoint that it is a part of."""
    step: Literal[SaveStep.WRITE, SaveStep.COMMIT]
    """write, to all ranks of the job while they are on their devices: copy the state, answer, and write the copy while
    you go on; a receipt tells when that is done. commit, to the first one, once all have written: end the folder."""


RankCommand = Annotated[
    Meet | Build | Load | Export | Fingerprint | Offload | Reload | Train | Save | SaveOptimizer,
    Field(discriminator="kind"),
]
RANK_COMMAND: TypeAdapter[RankCommand] = TypeAdapter(RankCommand)


class Met(Resource):
    """From a rank: all ranks of the job have found each other."""

    kind: Literal["met"] = "met"
    """Discriminator."""


class Ready(Resource):
    """From a rank: the model stands, on the device."""

    kind: Literal["ready"] = "ready"
    """Discriminator."""
    device_bytes: int
    """Device memory held."""


class Loaded(Resource):
    """From a rank: it holds the wanted weights, all of them."""

    kind: Literal["loaded"] = "loaded"
    """Discriminator."""
    device_bytes: int
    """Device memory held."""


class Exported(Resource):
    """From a rank: what it wrote."""

    kind: Literal["exported"] = "exported"
    """Discriminator."""
    pieces: tuple[Piece, ...]
    """Its pieces, with checksums computed as the bytes were written."""


class Fingerprinted(Resource):
    """From a rank or a server: what it holds."""

    kind: Literal["fingerprinted"] = "fingerprinted"
    """Discriminator."""
    boxes: tuple[BoxFingerprint, ...]
    """A server's are those of all its workers, one after another."""
    folder_boxes: tuple[BoxFingerprint, ...] = ()
    """Of the folder that was asked about."""
    misfits: tuple[str, ...] = ()
    """What a server's model has in another form than it was handed over in, each in words."""


class Freed(Resource):
    """What an offload should free, and what it freed."""

    expected_bytes: int
    """Parameters, gradients, optimizer state: what of them was in the device's memory."""
    measured_bytes: int
    """By how much the memory in use has shrunk, as the driver counts it; on a CPU, the kernel."""


class Moved(Resource):
    """From a rank: the model left the device or came back."""

    kind: Literal["moved"] = "moved"
    """Discriminator."""
    device_bytes: int
    """Device memory held now. 0 after an offload means that it was measured: see `freed`."""
    freed: Freed | None = None
    """After an offload: what was measured. None where nothing was moved."""


class Trained(Resource):
    """From a rank: metrics over all ranks."""

    kind: Literal["trained"] = "trained"
    """Discriminator."""
    max_abs_logprob_difference: float
    """Against the server's, nats."""
    num_logprobs: int = 0
    """Sampled tokens of which both were compared."""
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
    """From a rank or a server: the command was not carried out, and the state is as before."""

    kind: Literal["refused"] = "refused"
    """Discriminator."""
    reason: str
    """Why, for people."""


RankAnswer = Annotated[
    Met | Ready | Loaded | Exported | Fingerprinted | Moved | Trained | Saved | Refused, Field(discriminator="kind")
]
RANK_ANSWER: TypeAdapter[RankAnswer] = TypeAdapter(RankAnswer)


class Fork(Resource):
    """To the zygote, with two descriptors attached: the server's end of a channel, and a pipe for its output. Answer:
    Forked."""

    kind: Literal["fork"] = "fork"
    """Discriminator."""
    arguments: tuple[str, ...]
    """Command line of the server."""
    scratch: str = ""
    """Folder for the server's temporary files; it goes with the server."""


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
    """To a server: the devices are yours. Answer: loading, once all but the weights stands."""

    kind: Literal["go"] = "go"
    """Discriminator."""


class Bind(Resource):
    """To a server: answer with this generation from now on. Answers: loaded, then listening; or Refused.

    Requests that have come since the word to go, or since the last abort, have waited and are answered with it too.
    """

    kind: Literal["bind"] = "bind"
    """Discriminator."""
    manifest: str
    """Path of the manifest file. Its checksums have been compared already."""
    keeps_copy: bool
    """Copy the weights into the server's own memory, as the segment will be written while the server lives. Else, on a
    CPU, the server reads the segment itself."""


class Examine(Resource):
    """To a server that has bound a generation: tell the fingerprints of what it holds. Answer: Fingerprinted."""

    kind: Literal["examine"] = "examine"
    """Discriminator."""


class Abort(Resource):
    """To a server: end all generation now, handing back what there is, and begin none. Answer: aborted."""

    kind: Literal["abort"] = "abort"
    """Discriminator."""


class Sleep(Resource):
    """To a server that generates nothing: free the devices, weights and all, but live on. Answer: asleep."""

    kind: Literal["sleep"] = "sleep"
    """Discriminator."""


ServerCommand = Annotated[Go | Bind | Examine | Abort | Sleep, Field(discriminator="kind")]
SERVER_COMMAND: TypeAdapter[ServerCommand] = TypeAdapter(ServerCommand)


class ServerStep(Resource):
    """From a server: how far it is."""

    kind: Literal["step"] = "step"
    """Discriminator."""
    step: Literal["prepared", "loading", "loaded", "listening", "aborted", "asleep"]
    """prepared: arguments parsed; connections are taken and wait. loading: engine and HTTP server stand, weights next.
    loaded: weights bound and compared. listening: answers requests. aborted: no request is running. asleep: weights and
    cache are gone from the devices."""
    device_bytes: int | None = None
    """Of aborted and asleep: device memory held now."""


class ServerFailed(Resource):
    """From a server: it cannot serve and ends."""

    kind: Literal["failed"] = "failed"
    """Discriminator."""
    reason: str
    """Why, for people."""


ServerAnswer = Annotated[ServerStep | Fingerprinted | Refused | ServerFailed, Field(discriminator="kind")]
SERVER_ANSWER: TypeAdapter[ServerAnswer] = TypeAdapter(ServerAnswer)
