"""Full switches in real jobs, and how far the switch into Infer is from what cannot be avoided.

`floor_ratio` is (switch into Infer + first token) over (fork + vLLM's engine + one memcpy of the shards + first token).
Both sides end with the first token of a server that has just come up, asked over HTTP, and it is the same figure on
both. The switch is that of a running job, from the master's word to the last member's being ready, with all of its own.
The floor is measured in this run too, half before the job and half after it, with nothing but vLLM (see floor.py).
`floor_ratio_strict` takes on the floor's side the token that the bare engine samples in its own process: no HTTP there.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.report.result import Result
from benchmarks.switch_bench.copies import Memcpy
from benchmarks.switch_bench.cycles import ONE_WORKER, Cycling, Words, restarting, zygote_of
from benchmarks.switch_bench.floor import Floor, FloorProgram, floor_program
from benchmarks.switch_bench.jobs import Changes, Job, job_manifest, refusal, write_job
from benchmarks.switch_bench.plain import TUNED
from benchmarks.switch_bench.policies import Policy
from benchmarks.switch_bench.records import barrier_spread_seconds, switch_figures, switch_samples

from tandem_api.history import SwitchRecord

PLAIN: Changes = {}
TP2: Changes = {"hybrid": {"gpusPerPod": 2}, "rollout": {"parallelism": {"tensor": 2}}}
VARIANTS: Mapping[str, Changes] = {
    "two_pods": {"hybrid": {"replicas": 2}},
    "resident": {"switch": {"strategy": "Resident"}},
    "resident_tp2": {**TP2, "switch": {"strategy": "Resident"}},
}
"""Other jobs whose switches are measured; their figures end in the name."""

START_SECONDS = 240.0
"""Deadline of a bare engine's start; the first one waits for the program's imports too."""


@dataclass(frozen=True, slots=True)
class Unavoidable:
    """One sample of all that a switch into Infer cannot do without; times in seconds."""

    floor: Floor
    memcpy: float
    first_token: float
    """Of a server that has just come up, over HTTP."""


def measure_switches(
    toy: Path, policy: Policy, num_samples: int, folder: Path, changes: Changes = PLAIN, workers: Words = ONE_WORKER
) -> Result:
    """Return the figures of a job with one hybrid pod, and `floor_ratio`. `num_samples` switches each way.

    `workers` says to vLLM alone what `changes` says of the job's servers.
    """
    return asyncio.run(_measure(toy, policy, num_samples, folder, changes, workers))


def measure_variant(name: str, toy: Path, num_samples: int, folder: Path) -> Result:
    """Return the figures of one of the other jobs; a job that this version does not take is left out."""
    manifest = job_manifest(toy, num_samples + 1, VARIANTS[name])
    why = refusal(manifest)
    if why is not None:
        return Result({}, {}, {f"full_switch_*_{name}": why})
    switches = write_job(folder, name, manifest).run_to_end()
    figures = {f"{key}_{name}": value for key, value in switch_figures(switches).items()}
    if name == "two_pods":
        figures["barrier_spread_seconds"] = median(
            barrier_spread_seconds(switch) for switch in switches if not switch.first
        )
    return Result(figures, {"switches": switch_samples(switches)})


def floor_figures(switch_seconds: float, samples: list[Unavoidable]) -> dict[str, float]:
    """Return the floor's parts, their medians, and how many times their sum a switch into Infer takes."""
    fork = median(sample.floor.fork for sample in samples)
    engine = median(sample.floor.engine for sample in samples)
    memcpy = median(sample.memcpy for sample in samples)
    bare_token = median(sample.floor.first_token for sample in samples)
    token = median(sample.first_token for sample in samples)
    ours = switch_seconds + token
    return {
        "floor_fork_seconds": fork,
        "floor_engine_seconds": engine,
        "floor_memcpy_seconds": memcpy,
        "floor_first_token_seconds": bare_token,
        "first_token_seconds": token,
        "floor_ratio": ours / (fork + engine + memcpy + token),
        "floor_ratio_strict": ours / (fork + engine + memcpy + bare_token),
    }


async def _measure(
    toy: Path, policy: Policy, num_samples: int, folder: Path, changes: Changes, workers: Words
) -> Result:
    job = write_job(folder, "one_pod_tp2" if workers else "one_pod", job_manifest(toy, num_samples + 1, changes))
    async with zygote_of(policy) as engine, restarting(engine, policy, workers) as cycling:
        words = engine.command(policy.folder, **workers)
        with floor_program(words, TUNED, folder / "floor.log") as program:
            memcpy = Memcpy.of(policy)
            half = num_samples // 2
            samples = [await _unavoidable(program, cycling, memcpy, number) for number in range(half)]
            switches = await _run(job)
            samples += [await _unavoidable(program, cycling, memcpy, number) for number in range(half, num_samples)]
    figures = switch_figures(switches)
    figures |= floor_figures(figures["full_switch_train_to_infer_seconds"], samples)
    return Result(
        figures, {"switches": switch_samples(switches), "unavoidable": [asdict(sample) for sample in samples]}
    )


async def _run(job: Job) -> list[SwitchRecord]:
    return await asyncio.to_thread(job.run_to_end)


async def _unavoidable(program: FloorProgram, cycling: Cycling, memcpy: Memcpy, number: int) -> Unavoidable:
    await cycling.strategy.release()  # a server's workers go on looking for work for a while, which costs a processor
    async with asyncio.timeout(START_SECONDS):
        floor = await asyncio.to_thread(program.sample)
    return Unavoidable(floor, memcpy.seconds(number), (await cycling.next()).first_token)
