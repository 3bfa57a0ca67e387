"""Trajectories in a terminal and as lines of JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from pydantic.alias_generators import to_camel
from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tandem_api.trajectory import TokenSegment, Trajectory
from tandem_cli.report.quantity import ABSENT, fixed_text
from tandem_master.buffer.query import Listed
from tandem_master.data.tokens import PolicyText

COLOURS = ("green", "cyan", "magenta", "yellow")
"""Of segments, in turn."""


def render_list(listed: Sequence[Listed], num_meant: int) -> RenderableType:
    """Return one row a trajectory, and how many there are in all. `by`: generations that sampled it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("trajectory", overflow="fold", min_width=24)
    for title in ("state", "drawn", "ended"):
        table.add_column(title, no_wrap=True)
    for title in ("reward", "tokens", "by"):
        table.add_column(title, justify="right", no_wrap=True)
    for item in listed:
        table.add_row(
            *(item.id, item.state.value, str(item.iteration), _end(item)),
            *(fixed_text(item.reward, 2), fixed_text(item.num_tokens, 0), _generations(item)),
        )
    return Group(table, Text(f"{len(listed):,} of {num_meant:,}", style="dim"))


def render_one(trajectory: Trajectory, text: PolicyText | None) -> RenderableType:
    """Return prompt and response; every segment under a line of its own, in another colour.

    Without a tokenizer there are token ids instead of text.
    """
    parts: list[RenderableType] = [
        Text(f"{trajectory.id}: {trajectory.state.value}{_outcome(trajectory)}", style="bold"),
        Rule(f"prompt of {trajectory.problem_id}, {len(trajectory.prompt_token_ids):,} tokens", align="left"),
        Text(_words(trajectory.prompt_token_ids, text)),
    ]
    for number, segment in enumerate(trajectory.segments):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(Rule(_head(number, segment), align="left", style=colour))
        parts.append(Text(_words(segment.token_ids, text), style=colour))
    return Group(*parts)


def json_line(item: Listed, trajectory: Trajectory | None = None) -> str:
    """Return one line of JSON: what a list shows and, where it is given, all tokens and log-probabilities."""
    document = {to_camel(name): value for name, value in asdict(item).items()}
    if trajectory is not None:
        document |= trajectory.model_dump(mode="json", include={"group", "prompt_token_ids", "segments"})
    return json.dumps(document, ensure_ascii=False)


def _head(number: int, segment: TokenSegment) -> str:
    mean = sum(segment.logprobs) / len(segment.logprobs) if segment.logprobs else 0.0
    return (
        f"segment {number + 1}: generation {segment.generation}, {len(segment.token_ids):,} tokens, "
        f"mean log-probability {mean:.3f}"
    )


def _outcome(trajectory: Trajectory) -> str:
    reward = "" if trajectory.reward is None else f", reward {trajectory.reward:.2f}"
    return f"{reward}, {trajectory.finish_reason}" if trajectory.finish_reason else reward


def _words(token_ids: Sequence[int], text: PolicyText | None) -> str:
    if text is None:
        return " ".join(map(str, token_ids))
    whole: str = text.tokenizer.decode(list(token_ids), skip_special_tokens=False)
    return whole


def _end(item: Listed) -> str:
    return ABSENT if item.finished_iteration is None else f"{item.finished_iteration} ({item.finish_reason})"


def _generations(item: Listed) -> str:
    if item.first_generation is None:
        return ABSENT
    if item.first_generation == item.last_generation:
        return str(item.first_generation)
    return f"{item.first_generation}–{item.last_generation}"
