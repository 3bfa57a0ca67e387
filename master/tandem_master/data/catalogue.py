"""All problems of a job with their prompts in tokens, checked against the policy's limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_api.job.policy import DataSpec, PolicySpec
from tandem_api.trajectory import Problem, Trajectory
from tandem_master.data.problems import LoadedSet, read_problem_sets
from tandem_master.data.tokens import PolicyText, read_policy_text
from tandem_master.errors import BufferStateError, DataError
from tandem_master.sampling.mixture import DrawnSet


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a job samples from."""

    text: PolicyText
    max_length_tokens: int
    """Longest trajectory: of the spec, cut to what the model can hold."""
    problems: Mapping[str, Problem]
    prompt_token_ids: Mapping[str, tuple[int, ...]]
    sets: tuple[DrawnSet, ...]

    def problem(self, problem_id: str) -> Problem:
        """Return a problem that the buffer names. Errors: BufferStateError where the data have changed."""
        try:
            return self.problems[problem_id]
        except KeyError:
            raise BufferStateError(
                f"spec.data.train: problem {problem_id} of the replay buffer is not there any more;"
                " put it back, or start in an empty state folder"
            ) from None


def load_catalogue(policy: PolicySpec, data: DataSpec) -> Catalogue:
    """Read tokenizer and problems. Errors: DataError with file and line."""
    text = read_policy_text(Path(policy.model.path))
    limit = min(policy.max_length_tokens, text.max_position_embeddings or policy.max_length_tokens)
    sets = read_problem_sets(data.train)
    prompts: dict[str, tuple[int, ...]] = {}
    for item in sets:
        encoded = text.encode([problem.prompt for problem in item.problems])
        for problem, token_ids in zip(item.problems, encoded, strict=True):
            _check_prompt(token_ids, limit, item, problem)
            prompts[problem.id] = token_ids
    return Catalogue(
        text=text,
        max_length_tokens=limit,
        problems={problem.id: problem for item in sets for problem in item.problems},
        prompt_token_ids=prompts,
        sets=tuple(DrawnSet(item.name, item.weight, tuple(problem.id for problem in item.problems)) for item in sets),
    )


def open_groups(
    catalogue: Catalogue, problem_ids: Sequence[str], num_samples: int, iteration: int
) -> tuple[Trajectory, ...]:
    """Return `num_samples` empty trajectories for each drawn problem; one drawn twice makes two groups."""
    trajectories: list[Trajectory] = []
    times_drawn: dict[str, int] = {}
    for problem_id in problem_ids:
        catalogue.problem(problem_id)
        occurrence = times_drawn.get(problem_id, 0)
        times_drawn[problem_id] = occurrence + 1
        trajectories += [
            Trajectory(
                id=f"{iteration}-{problem_id}-{occurrence * num_samples + sample}",
                group=f"{iteration}-{problem_id}-{occurrence}",
                problem_id=problem_id,
                prompt_token_ids=catalogue.prompt_token_ids[problem_id],
            )
            for sample in range(num_samples)
        ]
    return tuple(trajectories)


def _check_prompt(token_ids: Sequence[int], limit: int, item: LoadedSet, problem: Problem) -> None:
    where = item.lines[problem.id]
    if not token_ids:
        raise DataError(f"{where}: the prompt has no token; give it a text that the tokenizer knows")
    if len(token_ids) >= limit:
        raise DataError(
            f"{where}: the prompt has {len(token_ids)} tokens, which leaves none of the {limit} of"
            " spec.policy.maxLengthTokens (cut to the model's max_position_embeddings); drop it or allow more"
        )
