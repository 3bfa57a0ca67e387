"""A job in the middle of its life: many trajectories that wait to go on, in a buffer on disk."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

from benchmarks.master_bench.servers import Pace, PretendServers, streamed_lines
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tandem_api.job.operations import CheckpointsSpec
from tandem_api.job.policy import DataSpec, Dtype, ModelSource, PolicySpec, ProblemSet
from tandem_api.job.recipe import PartialRolloutSpec, RecipeSpec
from tandem_api.job.rewards import BuiltinReward, RewardSpec
from tandem_api.job.spec import RLJobSpec
from tandem_api.job.status import Phase
from tandem_api.registry import Desired, Keys, MemberRecord, MemberState, MemberStatus, Progress
from tandem_api.trajectory import Problem, TokenSegment, Trajectory
from tandem_checkpoint.registry.store import Change, Registry
from tandem_master.buffer.outcome import Outcome
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.data.catalogue import Catalogue
from tandem_master.data.tokens import read_policy_text
from tandem_master.progress import ProgressBoard
from tandem_master.rewards.scoring import Scorer, open_scorer
from tandem_master.run import Run
from tandem_master.sampling.state import Draw
from tandem_master.serving import Serving
from tandem_master.stop import StopSignal
from tandem_master.trainers import Trainer, TrainerApi
from tandem_master.watched import WatchedKeys, watched

ITERATION = 2
"""The first one that is measured: its policy is generation 1, and generation 0 began all responses."""
SAMPLES = 8
"""Of a problem."""
PROMPT_TOKENS, OLD_TOKENS, NEW_TOKENS = 64, (128, 512), 128
"""Of a trajectory: its prompt, between so many of generation 0, and what generation 1 adds."""
NUM_PODS, NUM_SERVERS = 8, 64
EPOCH = 3
GROUPS_AT_ONCE = 500
EOS, UNKNOWN = 0, 1
DIGIT = 3
"""Token of the digit 0."""


@dataclass(frozen=True)
class Scene:
    """What is measured at."""

    run: Run
    serving: Serving
    servers: PretendServers


class OneLook:
    """A registry whose keys never change."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    async def watch(self, prefix: str) -> AsyncIterator[tuple[Change, ...]]:
        """Tell of all keys once."""
        yield tuple(Change(key, value) for key, value in self._values.items())
        await asyncio.Event().wait()


def fill(folder: Path, num_trajectories: int) -> None:
    """Write a policy's text side, and a buffer in which iteration 1 has left so many trajectories unfinished."""
    _write_policy(folder / "policy")
    with closing(open_buffer(folder / "buffer.sqlite")) as buffer:
        names = _names(num_trajectories)
        for begin in range(0, len(names), GROUPS_AT_ONCE):
            _begin(buffer, begin, names[begin : begin + GROUPS_AT_ONCE])
        buffer.commit(1, [])


def _names(num_trajectories: int) -> list[str]:
    """Return the names of the problems."""
    return [f"p{number}" for number in range(num_trajectories // SAMPLES)]


def _old_tokens(name: str) -> int:
    """Return how many tokens the responses to a problem have already."""
    return Random(name).randint(*OLD_TOKENS)


def _begin(buffer: Buffer, place: int, names: Sequence[str]) -> None:
    """Open groups of the problems of these names, and give each member its old tokens."""
    opened = [
        Trajectory(id=f"1-{name}-{sample}", group=f"1-{name}-0", problem_id=name, prompt_token_ids=_prompt(name))
        for name in names
        for sample in range(SAMPLES)
    ]
    if place:
        buffer.draw_more(1, Draw(tuple(names)), opened)
    else:
        buffer.begin(1, Draw(tuple(names)), opened)
    outcomes = []
    for item in opened:
        num_tokens = _old_tokens(item.problem_id)
        logprobs = tuple(-((index * 7919) % 1000) / 997 for index in range(num_tokens))
        segment = TokenSegment(generation=0, token_ids=(DIGIT + 1,) * num_tokens, logprobs=logprobs)
        outcomes.append(Outcome(item.model_copy(update={"segments": (segment,)}), correct=None))
    buffer.record(1, outcomes)


def _prompt(name: str) -> tuple[int, ...]:
    return tuple(DIGIT + int(digit) for digit in name.removeprefix("p").zfill(PROMPT_TOKENS))


@asynccontextmanager
async def opened(folder: Path, pace: Pace, num_trajectories: int, iteration: int) -> AsyncIterator[Scene]:
    """Have a master's parts around the buffer that `fill` has made, up to where it would begin a phase."""
    new = [DIGIT + (index * 31) % 10 for index in range(NEW_TOKENS - 1)]
    right, wrong = streamed_lines([*new, EOS]), streamed_lines([*reversed(new), EOS])
    keys = Keys(namespace="default", job="bench")
    spec = _spec(folder)
    async with AsyncExitStack() as stack:
        scorer = await stack.enter_async_context(open_scorer(spec.rewards))
        buffer = stack.enter_context(closing(open_buffer(folder / "buffer.sqlite")))
        registry = cast("Registry", OneLook(_members(keys, iteration)))
        members = await stack.enter_async_context(watched(registry, [keys.prefix]))
        await members.until(lambda values: values or None)
        servers = await stack.enter_async_context(PretendServers(right, wrong, pace))
        catalogue = _catalogue(folder, num_trajectories, spec.policy.max_length_tokens)
        run = _run(spec, catalogue, keys, servers, buffer, scorer)
        yield Scene(run, _serving(members, keys, iteration), servers)


def _catalogue(folder: Path, num_trajectories: int, max_length_tokens: int) -> Catalogue:
    """Return problems whose answer every second response is."""
    answer = "".join(str((index * 31) % 10) for index in range(NEW_TOKENS - 1))
    problems = {
        name: Problem(id=name, prompt="", answer="1" * _old_tokens(name) + answer) for name in _names(num_trajectories)
    }
    return Catalogue(read_policy_text(folder / "policy"), max_length_tokens, problems, {}, ())


def _run(
    spec: RLJobSpec, catalogue: Catalogue, keys: Keys, servers: PretendServers, buffer: Buffer, scorer: Scorer
) -> Run:
    trainer = Trainer("bench-hybrid-0", _member("train", 0, shares=tuple(range(NUM_PODS))))
    first = Progress(activity="starting", iteration=1, iterations=spec.recipe.iterations, generation=1)
    absent: Any = None
    switcher: Any = _Epoch()
    return Run(
        spec=spec,
        catalogue=catalogue,
        buffer=buffer,
        journal=absent,
        board=ProgressBoard(absent, keys.progress, first),
        switcher=switcher,
        trainers=TrainerApi(servers, lambda: (trainer,)),
        state=Path(),
        keys=keys,
        checkpoints=absent,
        client=servers,
        stop=StopSignal(),
        scorer=scorer,
        held_out=(),
        evaluations=absent,
    )


class _Epoch:
    """What the batch asks of the switcher."""

    epoch = EPOCH + 1


def _spec(folder: Path) -> RLJobSpec:
    return RLJobSpec(
        policy=PolicySpec(model=ModelSource(path=str(folder / "policy")), dtype=Dtype.FLOAT32, max_length_tokens=4096),
        data=DataSpec(train=(ProblemSet(name="p", path="absent"),)),
        rewards=(RewardSpec(name="answer", builtin=BuiltinReward.EXACT_MATCH),),
        recipe=RecipeSpec(
            iterations=9, samples_per_problem=SAMPLES, partial_rollout=PartialRolloutSpec(token_budget=1024)
        ),
        checkpoints=CheckpointsSpec(every_iterations=9),
    )


def _serving(members: WatchedKeys, keys: Keys, iteration: int) -> Serving:
    generation = iteration - 1
    desired = Desired(
        epoch=EPOCH, phase=Phase.INFER, generation=generation, lineage="a", iteration=iteration, deadline=0.0
    )
    return Serving(members, keys, desired)


def _members(keys: Keys, iteration: int) -> dict[str, str]:
    """Return the keys of pods whose servers serve what an iteration samples with."""
    status = MemberStatus(
        incarnation="a", epoch=EPOCH, state=MemberState.SERVING, generation=iteration - 1, lineage="a"
    )
    pods = range(NUM_PODS)
    records = {keys.member(f"bench-hybrid-{pod}", "rollout"): _member("rollout", pod).model_dump_json() for pod in pods}
    statuses = {keys.status(f"bench-hybrid-{pod}", "rollout"): status.model_dump_json() for pod in pods}
    return records | statuses


def _member(role: Any, pod: int, shares: tuple[int, ...] = ()) -> MemberRecord:
    address = f"10.0.0.{pod}"
    per_pod = NUM_SERVERS // NUM_PODS
    servers = tuple(f"http://{address}:{8000 + number}" for number in range(per_pod)) if role == "rollout" else ()
    return MemberRecord(
        incarnation="a", role=role, address=address, port=7000, servers=servers, num_ranks=len(shares), shares=shares
    )


def _write_policy(folder: Path) -> None:
    folder.mkdir(parents=True)
    vocabulary = {"<eos>": EOS, "<unk>": UNKNOWN, "=": 2, **{str(digit): digit + DIGIT for digit in range(10)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
