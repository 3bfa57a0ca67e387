"""Iterations in virtual time: what is unfinished goes on, complete groups are trained, as the master does it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from benchmarks.rollout_bench.lengths import Lengths
from benchmarks.rollout_bench.pace import Pace
from benchmarks.rollout_bench.phase import WAIT_FOR_ALL, Phase, PhaseOutcome
from benchmarks.rollout_bench.server import BLOCK_TOKENS

from tandem_api.trajectory import Trajectory, TrajectoryState
from tandem_master.rollout.ending import StopRule
from tandem_master.rollout.segments import Completion, FinishReason, Limits, extend, plan_asks

PROMPT_BLOCKS = 1
SWITCH_SECONDS = 70.0
"""Both switches of an iteration: under a minute and about ten seconds (report, section 2.6.3)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated. Everything grows with the number of servers."""

    num_servers: int
    lengths: Lengths
    pace: Pace
    is_partial: bool
    rule: StopRule = WAIT_FOR_ALL
    groups_per_server: int = 2
    group_size: int = 8
    seats: int = 48
    """Of a server: what its memory has room for."""
    switch_seconds: float = SWITCH_SECONDS

    @property
    def limits(self) -> Limits:
        """Return the token budget and the longest response, in blocks."""
        longest = _blocks(self.lengths.max_tokens)
        budget = _blocks(self.lengths.budget_tokens) if self.is_partial else longest
        return Limits(budget_tokens=budget, max_length_tokens=PROMPT_BLOCKS + longest)


@dataclass(frozen=True, slots=True)
class SimulatedIteration:
    """What one iteration did."""

    phase: PhaseOutcome
    train_seconds: float
    switch_seconds: float
    sampled_tokens: int
    trained_tokens: int
    """Of the responses of groups that became complete."""
    loss_tokens: int
    """Of them, what this iteration sampled: the loss leaves older segments out."""

    @property
    def seconds(self) -> float:
        return self.phase.seconds + self.train_seconds + self.switch_seconds


@dataclass(slots=True)
class Cluster:
    """A job's trajectories between iterations. A token here is a block of tokens."""

    setting: Setting
    seed: int
    iteration: int = 0
    live: dict[str, Trajectory] = field(default_factory=dict)
    """Not trained yet, by id."""
    _lengths: dict[str, int] = field(default_factory=dict)
    """Of whole responses, in blocks."""

    def run_iteration(self) -> SimulatedIteration:
        """Draw, sample, train."""
        self.iteration += 1
        self._draw()
        unfinished = [item for item in self.live.values() if item.state is TrajectoryState.UNFINISHED]
        phase = Phase(
            self.setting.num_servers,
            self.setting.seats,
            self.setting.pace,
            {item.id: self._lengths[item.id] - item.num_response_tokens for item in unfinished},
            self.setting.rule,
        )
        generation, limits = self.iteration - 1, self.setting.limits
        outcome = phase.run(plan_asks(unfinished, generation, limits, seed=self.seed, iteration=self.iteration))
        for name, sampled in outcome.sampled.items():
            reason = FinishReason.STOP if sampled.is_whole else FinishReason.LENGTH
            self.live[name] = extend(self.live[name], _completion(sampled.num_blocks, reason), generation, limits)
        return self._train(outcome)

    def _draw(self) -> None:
        setting = self.setting
        rng = np.random.default_rng((self.seed, self.iteration))  # the same problems, whatever the setting
        drawn = setting.lengths.draw(rng, setting.num_servers * setting.groups_per_server, setting.group_size)
        for number, group in enumerate(drawn):
            problem = f"{self.iteration}-{number}"
            for sample, tokens in enumerate(group):
                name = f"{problem}-{sample}"
                self._lengths[name] = _blocks(int(tokens))
                self.live[name] = Trajectory(
                    id=name, group=problem, problem_id=problem, prompt_token_ids=(0,) * PROMPT_BLOCKS
                )

    def _train(self, outcome: PhaseOutcome) -> SimulatedIteration:
        """Train the groups that are complete, and forget them."""
        pending = {item.group for item in self.live.values() if item.state is TrajectoryState.UNFINISHED}
        trained = [item for item in self.live.values() if item.group not in pending]
        current = [segment for item in trained for segment in item.segments if segment.generation == self.iteration - 1]
        num_blocks = sum(item.num_response_tokens for item in trained)
        for item in trained:
            del self.live[item.id], self._lengths[item.id]
        setting = self.setting
        return SimulatedIteration(
            phase=outcome,
            train_seconds=setting.pace.train_seconds * num_blocks * BLOCK_TOKENS / setting.num_servers,
            switch_seconds=setting.switch_seconds,
            sampled_tokens=sum(sampled.num_blocks for sampled in outcome.sampled.values()) * BLOCK_TOKENS,
            trained_tokens=num_blocks * BLOCK_TOKENS,
            loss_tokens=sum(len(segment.token_ids) for segment in current) * BLOCK_TOKENS,
        )


@dataclass(frozen=True)
class Course:
    """Iterations of one setting, after those in which the tail filled up."""

    setting: Setting
    iterations: Sequence[SimulatedIteration]

    @cached_property
    def trained_tokens_per_second(self) -> float:
        return sum(item.trained_tokens for item in self.iterations) / self.seconds

    @cached_property
    def loss_tokens_per_second(self) -> float:
        return sum(item.loss_tokens for item in self.iterations) / self.seconds

    @cached_property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.iterations)

    @property
    def infer_share(self) -> float:
        return sum(item.phase.seconds for item in self.iterations) / self.seconds

    @property
    def tail_idle_share(self) -> float:
        """Return the mean over the phases, by their durations."""
        weights = [item.phase.seconds for item in self.iterations]
        return float(np.average([item.phase.tail_idle_share for item in self.iterations], weights=weights))


def run_course(setting: Setting, num_iterations: int, seed: int) -> Course:
    """Simulate so many iterations, after as many as it takes until a phase begins with as much as any other."""
    cluster = Cluster(setting, seed)
    keeps_some = setting.is_partial or setting.rule.complete_share is not None
    for _ in range(-(-setting.lengths.max_tokens // setting.lengths.budget_tokens) if keeps_some else 0):
        cluster.run_iteration()
    return Course(setting, [cluster.run_iteration() for _ in range(num_iterations)])


def _completion(num_blocks: int, reason: FinishReason) -> Completion:
    return Completion((0,) * num_blocks, (0.0,) * num_blocks, reason)


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_TOKENS)
