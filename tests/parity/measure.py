"""Measuring one case after another: how far log-probabilities are apart, and whether bytes are the same.

A segment that the ranks of a split export is compared, byte by byte, with the one that a single rank exports, and that
one with the policy's own tensors. Where they are equal, every server that reads one of them reads them all. So servers
are started once a family and a split of the server, not once a split of the trainer; the tokens that they have sampled
are then given to the trainer in each of its splits, and their log-probabilities compared there.
"""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue

from tandem_api.engine import Sample
from tandem_api.job.pods import TrainerParallelism
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.process.commands import Refused
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import manifest_of
from tests.families.policies import write_policy
from tests.parity.cases import SERVER_SPLITS, SIZES, Case
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge, two_places
from tests.tandem_sidecars.generations import Generation, write_generation
from tests.tandem_sidecars.pod import Exports, Pod
from tests.tandem_sidecars.policies import samples_of
from tests.tandem_sidecars.serving import PROMPT, Completion, Engine, largest_gap
from tests.tandem_sidecars.training import ANY, SMOOTH, weights_in

TRAINER_LIMIT = 1e-5
"""Nats between the trainer and transformers, float32 on both sides."""
SERVER_LIMIT = 5e-5
"""Nats between a server and either of them."""
NOTHING = -1.0
"""No batch differs by as little."""
DIFFERENCE = re.compile(r"differ by (?P<nats>\S+) nats")
MICRO_BATCH_TOKENS = 40
"""Several micro-batches a rank."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found about one case; distances are the largest, in nats."""

    case: str
    family: str
    to_transformers: float
    """transformers in float32."""
    to_exact: float
    """transformers in float64."""
    to_servers: tuple[float, ...]
    """vLLM, by tensor-parallel ranks of SERVER_SPLITS; empty where no server was asked."""
    is_export_equal: bool
    """Whether the ranks' segment is that of one rank, and that one the policy's tensors, to the last bit."""
    is_import_undone: bool
    """Whether what was exported, imported and exported again is the same to the last bit."""

    @property
    def is_exact(self) -> bool:
        """Whether distances are within the limits and bytes equal."""
        return (
            max(self.to_transformers, self.to_exact) <= TRAINER_LIMIT
            and max(self.to_servers, default=0.0) <= SERVER_LIMIT
            and self.is_export_equal
            and self.is_import_undone
        )


@dataclass(frozen=True, slots=True)
class Served:
    """What a server of one split sampled, and how far it is from transformers."""

    num_tensor: int
    gap: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """A family's policy, and what transformers and a single rank make of it."""

    policy: Path
    samples: tuple[Sample, ...]
    exact: tuple[Sample, ...]
    exported: Exports
    is_plain: bool
    """Whether what one rank exports is the policy's own tensors, each where it belongs."""


class Bench:
    """Starts ranks of any case; policies are written once."""

    def __init__(self, forge: Forge, folder: Path) -> None:
        self._forge = forge
        self._folder = folder
        self._origins: dict[str, Origin] = {}
        self._served: dict[str, tuple[Served, ...]] = {}
        self._numbers = itertools.count()

    @property
    def served_families(self) -> frozenset[str]:
        """Families whose servers have been asked."""
        return frozenset(self._served)

    def origin(self, family: str) -> Origin:
        if family not in self._origins:
            policy = write_policy(self._folder / family, family, **SIZES[family])
            by_hand = write_generation(policy, weights_in(policy), self._folder / f"{family}-by-hand")
            with self._pod(policy, 1, TrainerParallelism()) as pod:
                exported = pod.export("exported")
            self._origins[family] = Origin(
                policy,
                samples_of(policy),
                samples_of(policy, dtype=torch.float64),
                exported,
                exported.content == by_hand.segment.read_bytes(),
            )
        return self._origins[family]

    async def serve(self, engine: Engine, family: str) -> tuple[Served, ...]:
        """Ask a server of each split, which reads what one rank has exported."""
        if family not in self._served:
            origin = self.origin(family)
            generation = generation_of(origin)
            self._served[family] = tuple(
                [await _serve(engine, origin.policy, generation, num_tensor) for num_tensor in SERVER_SPLITS]
            )
        return self._served[family]

    def measure(self, case: Case) -> Measured:
        origin = self.origin(case.family)
        with self._pod(origin.policy, case.num_ranks, case.parallelism) as pod:
            first = pod.export("first")
            served = [server.samples for server in self._served.get(case.family, ())]
            to_transformers, to_exact, *to_servers = [
                _distance(pod, samples) for samples in (origin.samples, origin.exact, *served)
            ]
            pod.train(origin.samples, ANY, num_steps=1)
            second = pod.export("second")
            pod.load(first.source)
            back = pod.export("back")
            pod.load(second.source)
            again = pod.export("again")
        return Measured(
            case.name,
            case.family,
            to_transformers,
            to_exact,
            tuple(to_servers),
            is_export_equal=origin.is_plain and first.content == origin.exported.content,
            is_import_undone=back.content == first.content
            and again.content == second.content
            and first.content != second.content,
        )

    @contextmanager
    def _pod(self, policy: Path, num_ranks: int, parallelism: TrainerParallelism) -> Iterator[Pod]:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        config = job_config(
            policy,
            num_ranks=num_ranks,
            parallelism=parallelism,
            optimizer=SMOOTH,
            micro_batch_tokens=MICRO_BATCH_TOKENS,
        )
        ranks = self._forge.start_all(config, folder, two_places(num_ranks))
        yield Pod(ranks, PodRanks(split_of(parallelism), num_ranks), policy, folder)
        for rank in ranks:
            rank.close()


def _distance(pod: Pod, samples: tuple[Sample, ...]) -> float:
    """Return how far a trainer is from samples, in nats, to three digits.

    A batch that differs by more than it may is refused before anything is trained, and so is every batch whose limit is
    below 0: that costs a pass forward, and changes nothing.
    """
    refusals = pod.offer(samples, NOTHING, 1, Refused)
    told = [DIFFERENCE.search(refused.reason) for refused in refusals]
    return max(float(match["nats"]) for match in told if match)


def generation_of(origin: Origin) -> Generation:
    """Return what one rank has exported as a server is told of it."""
    layout = segment_layout(read_policy_config(origin.policy), "float32")
    path = origin.exported.path
    manifest = path.with_name("manifest.json")
    manifest.write_text(manifest_of(layout, [origin.exported.shard], str(path)).model_dump_json())
    return Generation(layout, path, manifest)


async def _serve(engine: Engine, policy: Path, generation: Generation, num_tensor: int) -> Served:
    split: dict[str, JsonValue] = {"tensor_parallel_size": num_tensor}
    if num_tensor > 1:
        split["distributed_executor_backend"] = "mp"
    async with engine.serving(policy, generation, **split):
        completion = await engine.complete(num_samples=4, max_tokens=20, ignore_eos=True)
    return Served(num_tensor, largest_gap(completion, policy), tuple(_samples(completion)))


def _samples(completion: Completion) -> Iterator[Sample]:
    """Yield what a server has sampled as the master gives it to a trainer."""
    for number, choice in enumerate(completion.choices):
        yield Sample(
            token_ids=(*PROMPT, *choice.token_ids),
            first_loss_token=len(PROMPT),
            sampled_logprobs=choice.logprobs.token_logprobs,
            advantage=0.5 if number % 2 else -0.5,
        )
