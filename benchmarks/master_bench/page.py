"""The section "The master under load" of docs/results.md."""

from collections.abc import Mapping
from typing import Any

NAME = "master"
ROWS = {
    "dispatch_p50_ms": "from the last byte of an answer to the next request at that server, median, ms",
    "dispatch_p99_ms": "the same, 99th percentile, ms",
    "dispatch_max_ms": "the same, longest, ms",
    "paced_per_second": "trajectories finished and durable a second, at that pace",
    "paced_cpu_ms": "CPU time of the process for each of them, pretended servers included, ms",
    "finished_per_second": "as fast as it goes: sampled, scored, durable, batched and committed a second",
    "sampled_per_second": "its first half: up to the buffer",
    "batched_per_second": "its second half: complete groups, batch, request to the trainer, commit",
    "bytes_per_trajectory": "memory of a live trajectory, bytes",
    "plan_seconds": "planning the phase: every live trajectory read and its request made, s",
    "http_cpu_ms": "CPU time of the master for a request over HTTP on loopback, ms",
    "http_requests_per_second": "such requests a second",
}
"""What each figure is."""
WORDS = """
## The master under load

    make bench-master

{cpus} CPU cores (load {load:.1f} before), Python {python}, SQLite {sqlite}. {live:,} trajectories are live all the
time, each with a prompt of {prompt_tokens} tokens and {fewest} to {most} of its response; others finish with
{new_tokens} more, first at a pace, {decisions:,} of them, then as fast as it goes. {servers} servers, {seats:,} seats,
answer in the master's own process with ready-made lines of vLLM's stream: everything above the HTTP client is what a
job runs, the client and the network are not there. One run.

| figure | | |
| --- | ---: | --- |
{rows}

The last two are apart from the rest: the same answers through the master's HTTP client, {at_once} at once, medians of
{rounds} rounds. There a request costs {http_share:.2f} times what all the rest costs: what a master gets through is
bound by both. A request is one sample that goes on, or all new samples of a group.
"""


def section(result: Mapping[str, Any]) -> str:
    """Return the section's Markdown."""
    live, machine, versions = result["samples"]["live"], result["machine"], result["versions"]
    figures = result["figures"]
    return WORDS.format(
        **{key: live[key] for key in ("live", "prompt_tokens", "new_tokens", "decisions", "servers", "seats")},
        cpus=machine["cpus"],
        load=machine["load_before"],
        python=versions["python"],
        sqlite=versions["sqlite"],
        fewest=live["old_tokens"][0],
        most=live["old_tokens"][1],
        at_once=result["samples"]["http"]["at_once"],
        rounds=result["samples"]["http"]["rounds"],
        http_share=figures["http_cpu_ms"] / figures["paced_cpu_ms"],
        rows="\n".join(f"| `{name}` | {_shown(figures[name])} | {words} |" for name, words in ROWS.items()),
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
