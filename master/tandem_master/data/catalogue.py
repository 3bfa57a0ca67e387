"""All problems of a job with their prompts in tokens, checked against the policy's limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tandem_api.job.policy import DataSpec, PolicySpec, ProblemFile, ProblemSet
from tandem_api.job.recipe import RecipeSpec
from tandem_api.trajectory import Message, Problem, Trajectory
from tandem_master.data.problems import LoadedSet, read_problem_set, refuse_malformed, tell_malformed
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


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """One problem set, with its prompts in tokens."""

    loaded: LoadedSet
    prompt_token_ids: Mapping[str, tuple[int, ...]]


def load_catalogue(policy: PolicySpec, data: DataSpec, recipe: RecipeSpec | None = None) -> Catalogue:
    """Read tokenizer and problems. Errors: DataError with file and line, or with the field of
    `recipe` that wants what they lack.
    """
    text = read_policy_text(Path(policy.model.path))
    limit = min(policy.max_length_tokens, text.max_position_embeddings or policy.max_length_tokens)
    sets = [encoded_set(spec, text, limit, apply_chat_template=data.apply_chat_template) for spec in data.train]
    catalogue = Catalogue(
        text=text,
        max_length_tokens=limit,
        problems={problem.id: problem for item in sets for problem in item.loaded.problems},
        prompt_token_ids={name: token_ids for item in sets for name, token_ids in item.prompt_token_ids.items()},
        sets=tuple(_drawn_set(spec, item.loaded) for spec, item in zip(data.train, sets, strict=True)),
    )
    problem = (too_few(catalogue, recipe) or unlabelled(catalogue, recipe)) if recipe is not None else None
    if problem is not None:
        raise DataError(problem)
    return catalogue


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


def encoded_set(spec: ProblemFile, text: PolicyText, limit: int, *, apply_chat_template: bool) -> EncodedSet:
    """Return a set with its prompts in tokens, without what is malformed. Errors: DataError where that is too much."""
    loaded = read_problem_set(spec)
    malformed = [*loaded.malformed]
    problems: list[Problem] = []
    for problem in loaded.problems:
        try:
            problems.append(in_chat(problem, text, is_wanted=apply_chat_template))
        except ValueError as error:
            malformed.append(f"{loaded.lines[problem.id]}: {error}")
    kept: dict[str, Problem] = {}
    prompt_token_ids: dict[str, tuple[int, ...]] = {}
    for problem, token_ids in zip(problems, _tokens(problems, text), strict=True):
        trouble = _trouble_with(token_ids, limit)
        if trouble:
            malformed.append(f"{loaded.lines[problem.id]}: {trouble}")
        else:
            kept[problem.id], prompt_token_ids[problem.id] = problem, token_ids
    num_lines = len(loaded.problems) + len(loaded.malformed)
    refuse_malformed(spec, malformed, num_lines)
    tell_malformed(spec, malformed, num_lines)
    if not kept:
        raise DataError(f"{spec.path}: all {num_lines} lines are malformed; the first: {malformed[0]}")
    return EncodedSet(replace(loaded, problems=tuple(kept.values())), prompt_token_ids)


def in_chat(problem: Problem, text: PolicyText, *, is_wanted: bool) -> Problem:
    """Return a problem whose prompt is what the policy is given; `is_wanted`: also a text goes by the chat template.

    Errors: ValueError says what the policy's template lacks or refuses.
    """
    messages = problem.messages or ((Message(role="user", content=problem.prompt),) if is_wanted else ())
    if not messages:
        return problem
    if text.chat_template is None:
        raise ValueError(
            "the prompt wants a chat template, and spec.policy.model.path has none;"
            " save chat_template.jinja there, or write the prompt as a text"
        )
    return problem.model_copy(update={"prompt": text.chat_template.text(messages), "messages": messages})


def _tokens(problems: Sequence[Problem], text: PolicyText) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt."""
    plain = iter(text.encode([item.prompt for item in problems if not item.messages]))
    chats = iter(text.encode([item.prompt for item in problems if item.messages], is_chat=True))
    return [next(chats if item.messages else plain) for item in problems]


def _trouble_with(token_ids: Sequence[int], limit: int) -> str | None:
    if not token_ids:
        return "the prompt has no token; give it a text that the tokenizer knows"
    if len(token_ids) >= limit:
        return (
            f"the prompt has {len(token_ids)} tokens, which leaves none of the {limit} of"
            " spec.policy.maxLengthTokens (cut to the model's max_position_embeddings); drop it or allow more"
        )
    return None


def _drawn_set(spec: ProblemSet, item: LoadedSet) -> DrawnSet:
    """Return what is drawn from a set; labels count where each problem has one."""
    labels = tuple(problem.difficulty for problem in item.problems if problem.difficulty is not None)
    difficulties = labels if len(labels) == len(item.problems) else None
    return DrawnSet(item.name, spec.weight, tuple(problem.id for problem in item.problems), difficulties)


def unlabelled(catalogue: Catalogue, recipe: RecipeSpec) -> str | None:
    """Return which problem lacks the label that `recipe` ranks by, None where none does."""
    if recipe.sampling.needs_labels:
        for problem in catalogue.problems.values():
            if problem.difficulty is None:
                return (
                    f"spec.recipe.sampling.curriculum.difficulty: is Label, and problem {problem.id} of spec.data.train"
                    " has no `difficulty`; write one, or use PassRate"
                )
    return None


def too_few(catalogue: Catalogue, recipe: RecipeSpec) -> str | None:
    """Return that there are fewer problems than one iteration draws, None where there are enough."""
    if len(catalogue.problems) >= recipe.problems_per_iteration:
        return None
    return (
        f"spec.recipe.problemsPerIteration: is {recipe.problems_per_iteration}, but spec.data.train holds"
        f" {len(catalogue.problems)} problems; use {len(catalogue.problems)} or fewer"
    )
