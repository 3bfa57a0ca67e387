"""Held-out problem sets in memory, with what tells one version of a set from another."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_api.job.policy import EvaluationSet
from tandem_api.job.spec import RLJobSpec
from tandem_api.trajectory import Problem, Trajectory
from tandem_master.data.catalogue import Catalogue, encoded_set

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """One held-out set, with its prompts in tokens."""

    spec: EvaluationSet
    temperature: float
    problems: tuple[Problem, ...]
    prompt_token_ids: Mapping[str, tuple[int, ...]]
    """By problem id."""
    digest: str
    """Over all that a result depends on but the policy: results with the same digest can be compared."""

    @property
    def name(self) -> str:
        return self.spec.name

    def is_due(self, generation: int, last_generation: int) -> bool:
        """Return whether a generation is to be measured: the initial and the final one are, whatever the interval."""
        return generation % self.spec.every_iterations == 0 or generation == last_generation

    def trajectory(self, problem_id: str, number: int, generation: int) -> Trajectory:
        """Return one sample of a problem, without a token yet."""
        group = f"{generation}-{problem_id}"
        return Trajectory(
            id=f"evaluation-{group}-{number}",
            group=f"evaluation-{group}",
            problem_id=problem_id,
            prompt_token_ids=self.prompt_token_ids[problem_id],
        )


def load_held_out(spec: RLJobSpec, catalogue: Catalogue) -> tuple[HeldOutSet, ...]:
    """Read the held-out sets of a job, by the same rules as its training data. Errors: DataError, as load_catalogue."""
    return tuple(_held_out(item, spec, catalogue) for item in spec.data.evaluation)


def overlaps(sets: Sequence[HeldOutSet], catalogue: Catalogue) -> tuple[str, ...]:
    """Return for people which held-out sets hold prompts that are trained on too, and how many."""
    trained = frozenset(catalogue.prompt_token_ids.values())
    counts = {item.name: sum(tokens in trained for tokens in item.prompt_token_ids.values()) for item in sets}
    return tuple(
        f"spec.data.evaluation[{item.name}]: {counts[item.name]} of {len(item.problems)} prompts are in"
        " spec.data.train too, so they are not held out; take them out of one of the two"
        for item in sets
        if counts[item.name]
    )


def _held_out(item: EvaluationSet, spec: RLJobSpec, catalogue: Catalogue) -> HeldOutSet:
    encoded = encoded_set(
        item, catalogue.text, catalogue.max_length_tokens, apply_chat_template=spec.data.apply_chat_template
    )
    problems = encoded.loaded.problems[: item.max_problems]
    prompts = {problem.id: encoded.prompt_token_ids[problem.id] for problem in problems}
    temperature = spec.recipe.temperature if item.temperature is None else item.temperature
    known = {
        "prompts": [(name, list(token_ids)) for name, token_ids in prompts.items()],
        "answers": [problem.answer for problem in problems],
        "samples": item.samples_per_problem,
        "temperature": temperature,
        "max_length_tokens": catalogue.max_length_tokens,
        "rewards": [term.model_dump(mode="json") for term in spec.rewards],
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return HeldOutSet(item, temperature, problems, prompts, digest)
