"""Real servers and trainers side by side: partial rollouts, waiting for the longest, and the stop rule."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks.report.result import PartError, Result
from benchmarks.rollout_bench.arms import Arm, arms, example, make_policy, maker, manifest, prepare, run_for
from benchmarks.rollout_bench.trained import (
    Sampling,
    decoding_cost,
    read_sampling,
    tail_idle_share,
    trained_tokens,
    wasted_share,
)
from benchmarks.switch_bench.jobs import refusal

from tandem_master.rollout.repeats import RepeatRule

LEAST_ITERATIONS = 5
SUFFIXES = {"partial": "", "stop": "_stop"}
"""Of figures that compare with `full`, by arm."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long everything is measured."""

    seeds: int
    seconds: float
    """Of each job, after its first switch."""
    arms: Sequence[str]
    """Compared, once a seed, in turns: the order goes round from seed to seed."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One job."""

    arm: str
    seed: int
    sampling: Sampling
    reward: float
    """Chance that the policy at its end is right, over the held-out problems; exact, nothing is sampled."""

    @property
    def tokens_per_second(self) -> float:
        return trained_tokens(self.sampling) / self.sampling.seconds

    @property
    def tokens_per_infer_second(self) -> float:
        return trained_tokens(self.sampling) / self.sampling.infer_seconds


def measure_real(sizes: Sizes, folder: Path) -> Result:
    """Return the figures of the real jobs."""
    made = make_policy(folder / "made")
    known = arms(example()["spec"]["policy"]["maxLengthTokens"])
    left_out = {name: why for name in sizes.arms if (why := refusal(manifest(known[name], made, 1))) is not None}
    present = [name for name in sizes.arms if name not in left_out]
    measured = [
        _measure(known[name], made, seed, sizes.seconds, folder)
        for seed in range(1, sizes.seeds + 1)
        for name in present[seed % len(present) :] + present[: seed % len(present)]
    ]
    unstopped = _measure(known["unstopped"], made, 1, sizes.seconds, folder)
    figures = {
        **_compared(measured, present),
        **_wasted(measured, unstopped),
        **_cost(measured),
        **rewards(_rewards(measured, present), _reward(made, made / "policy")),
    }
    samples = {"jobs": [_sample(item) for item in (*measured, unstopped)]}
    return Result(figures, samples, left_out)


def _measure(arm: Arm, made: Path, seed: int, seconds: float, folder: Path) -> Measured:
    job = prepare(arm, made, seed, folder)
    run_for(job, seconds)
    sampling = read_sampling(job.run, arm.num_warm_up)
    if len(sampling.counted) < LEAST_ITERATIONS:
        raise PartError(f"{arm.name}: {len(sampling.iterations)} iterations in {seconds:g} s are too few; give it more")
    return Measured(arm.name, seed, sampling, _reward(made, job.run / "policy"))


def _reward(made: Path, policy: Path) -> float:
    """Return the chance that a policy answers a held-out problem rightly."""
    from transformers import AutoModelForCausalLM

    module = maker()
    lines = (made / "data" / "heldout.jsonl").read_text().splitlines()
    problems = [module.parse_problem(json.loads(line)["prompt"]) for line in lines]
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32").eval()
    return float(module.expected_reward(model, problems))


def _compared(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, float]:
    by_name = {name: [item for item in measured if item.arm == name] for name in names}
    figures: dict[str, float] = {}
    full = by_name["full"]
    for name, items in by_name.items():
        figures[f"trained_tokens_per_second_{name}"] = mean(item.tokens_per_second for item in items)
        figures[f"infer_share_{name}"] = mean(item.sampling.infer_seconds / item.sampling.seconds for item in items)
        figures[f"tail_idle_share_{name}"] = mean(tail_idle_share(item.sampling) for item in items)
        figures[f"iterations_{name}"] = mean(len(item.sampling.iterations) for item in items)
    for name, suffix in SUFFIXES.items():
        if name in by_name:
            pairs = list(zip(by_name[name], full, strict=True))
            gains = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
            figures[f"throughput_gain_vs_full{suffix}"] = mean(gains)
            figures[f"throughput_gain_vs_full{suffix}_least"] = min(gains)
            inferring = [one.tokens_per_infer_second / other.tokens_per_infer_second for one, other in pairs]
            figures[f"infer_throughput_gain_vs_full{suffix}"] = mean(inferring)
    return figures


def rewards(by_arm: Mapping[str, Sequence[float]], start: float) -> dict[str, float]:
    """Return the figures of the rewards at the end. `by_arm`: those of each arm, seed by seed, `full` among them;
    `start`: that of the policy that all begin with."""
    figures = {"reward_start": start, "reward_rise_least": min(min(values) for values in by_arm.values()) - start}
    for name, values in by_arm.items():
        figures |= {f"reward_{name}": mean(values), f"reward_{name}_spread": _spread(values)}
        if (suffix := SUFFIXES.get(name)) is not None:
            differences = [one - other for one, other in zip(values, by_arm["full"], strict=True)]
            figures[f"reward_difference_vs_full{suffix}"] = mean(differences)
            figures[f"reward_difference_vs_full{suffix}_least"] = min(differences)
            figures[f"reward_difference_vs_full{suffix}_spread"] = _spread(differences)
    return figures


def _rewards(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, list[float]]:
    return {name: [item.reward for item in measured if item.arm == name] for name in names}


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation; of one value 0."""
    return stdev(values) if len(values) > 1 else 0.0


def _wasted(measured: Sequence[Measured], unstopped: Measured) -> dict[str, float]:
    rule = repeat_rule()
    stopped = [wasted_share(item.sampling, rule) for item in measured if item.arm == "partial"]
    return {
        "wasted_tokens_share": mean(stopped),
        "wasted_tokens_share_unstopped": wasted_share(unstopped.sampling, rule),
    }


def _cost(measured: Sequence[Measured]) -> dict[str, float]:
    """Return what a decoding step costs, and how many times faster 32 sequences are sampled than one."""
    step, sequence = decoding_cost(item.sampling for item in measured)
    return {
        "decode_step_seconds": step,
        "decode_sequence_seconds": sequence,
        "batch_32_over_1_tokens_per_second": 32 * (step + sequence) / (step + 32 * sequence),
    }


def repeat_rule() -> RepeatRule:
    """Return the example's rule."""
    repeats: Mapping[str, float] = example()["spec"]["recipe"]["repeats"]
    return RepeatRule(int(repeats["windowTokens"]), int(repeats["ngramTokens"]), repeats.get("maxShare", 0.8))


def _sample(item: Measured) -> dict[str, object]:
    return {
        "arm": item.arm,
        "seed": item.seed,
        "iterations": len(item.sampling.iterations),
        "seconds": item.sampling.seconds,
        "trained_tokens_per_second": item.tokens_per_second,
        "infer_seconds": item.sampling.infer_seconds,
        "tail_idle_share": tail_idle_share(item.sampling),
        "longest_segment": max(segment.num_tokens for segment in item.sampling.segments),
        "repeats": len(item.sampling.repeats),
        "reward": item.reward,
        "rewards": [record.reward for record in item.sampling.iterations],
    }
