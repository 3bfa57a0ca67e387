"""The section "Partial rollouts" of docs/results.md: only what is between its two markers is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rollout_bench.lengths import DISTRIBUTIONS, LIKENESS
from benchmarks.rollout_bench.real import SUFFIXES
from benchmarks.rollout_bench.simulated import COMPLETE_SHARE, GROWTH, SERVERS

BEGIN, END = "<!-- partial-rollouts:begin -->", "<!-- partial-rollouts:end -->"
TITLE = "# Results"
WORDS = Path(__file__).with_name("section.md")
WAYS = {
    "full": "waiting for the longest",
    "partial": "a token budget",
    "stop": f"ending at {COMPLETE_SHARE:.0%} complete, no budget",
}
GAINS = {way: f"throughput_gain_vs_full{suffix}" for way, suffix in SUFFIXES.items()}
REAL_HEAD = ("Infer phases", "trained tokens/s", "gain", "sampling's share", "tail idle", "iterations", "reward")
SIMULATED_HEAD = (
    "lengths",
    "servers",
    "Infer phases",
    "gain",
    "gain in loss tokens",
    "tail idle",
    "Infer's share",
    "s",
)
LENGTHS_HEAD = ("lengths", "median", "sigma", "longest", "budget", "where from")
Figures = Mapping[str, float]
Row = Sequence[str]


def write_section(page: Path, result: Mapping[str, Any]) -> None:
    """Put the section into the page, in place of the one that is there; a page that is not there is begun."""
    text = page.read_text() if page.exists() else f"{TITLE}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(with_section(text, section(result)))


def with_section(text: str, body: str) -> str:
    """Return a page with the section between its markers; at its end where the page has none. Errors: ValueError."""
    wrapped = f"{BEGIN}\n{body.strip()}\n{END}"
    if (BEGIN in text) != (END in text):
        raise ValueError(f"the page has only one of {BEGIN} and {END}; restore the other")
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{wrapped}\n"
    before, rest = text.split(BEGIN, 1)
    return before + wrapped + rest.split(END, 1)[1]


def section(result: Mapping[str, Any]) -> str:
    """Return the section's Markdown."""
    figures, samples, machine = result["figures"], result["samples"], result["machine"]
    fewest, most = min(SERVERS), max(SERVERS)
    return WORDS.read_text().format(
        cpus=machine["cpus"],
        load=machine["load_before"],
        seeds=samples["of_each"],
        seconds=samples["seconds_of_each"],
        real_table=_table(REAL_HEAD, _real_rows(figures)),
        left_out="".join(f"* Left out: {WAYS[way]}: {why}\n" for way, why in result["left_out"].items() if way in WAYS),
        least=figures["throughput_gain_vs_full_least"],
        infer_gain=figures["infer_throughput_gain_vs_full"],
        loss_gain=figures[f"sim_loss_token_gain_{most}"],
        reward_words=reward_words(figures, samples["of_each"]),
        wasted=figures["wasted_tokens_share"],
        wasted_unstopped=figures["wasted_tokens_share_unstopped"],
        step=1e3 * figures["decode_step_seconds"],
        sequence=1e3 * figures["decode_sequence_seconds"],
        batch=figures["batch_32_over_1_tokens_per_second"],
        fewest=fewest,
        most=most,
        gain_fewest=figures[f"sim_throughput_gain_{fewest}"],
        gain_most=figures[f"sim_throughput_gain_{most}"],
        growth=GROWTH,
        likeness=LIKENESS,
        simulated_table=_table(SIMULATED_HEAD, _simulated_rows(samples["simulated"]["cells"])),
        lengths_table=_table(LENGTHS_HEAD, _lengths_rows()),
    )


def reward_words(figures: Figures, num_seeds: int) -> str:
    """Return what the rewards at equal wall time say, a sentence for each way beside waiting, and one of the start."""
    sentences = []
    for way, suffix in SUFFIXES.items():
        if f"reward_{way}" in figures:
            mean, least, spread = (
                figures[f"reward_difference_vs_full{suffix}{end}"] for end in ("", "_least", "_spread")
            )
            verdict = _verdict(mean, spread, num_seeds)
            sentences.append(
                f"With {WAYS[way]} it is {verdict} than with {WAYS['full']} for the same time: "
                f"{figures[f'reward_{way}']:.3f} against {figures['reward_full']:.3f}; "
                f"by seed {mean:+.3f} ± {spread:.3f}, {least:+.3f} in the least."
            )
    rise, start = figures["reward_rise_least"], figures["reward_start"]
    learnt = "Every job learns" if rise > 0 else "Not every job learns"
    return "\n  ".join([*sentences, f"{learnt}: {start:.3f} at the start, {start + rise:.3f} in the end of the least."])


def _verdict(difference: float, spread: float, num_seeds: int) -> str:
    """Return how a reward compares with that of waiting, by the mean and the standard deviation of the seeds'
    differences: what is below 0 by no more than that is not told from noise, and one seed, without a spread, tells
    nothing."""
    if difference >= 0:
        return "no worse"
    if num_seeds == 1:
        return "lower, in one seed,"
    return "lower, by less than the spread of the seeds," if -difference <= spread else "worse"


def _real_rows(figures: Figures) -> list[Row]:
    return [
        (
            words,
            f"{figures[f'trained_tokens_per_second_{way}']:.0f}",
            f"{figures[GAINS[way]]:.2f}" if way in GAINS else "1",
            f"{figures[f'infer_share_{way}']:.0%}",
            f"{figures[f'tail_idle_share_{way}']:.0%}",
            f"{figures[f'iterations_{way}']:.0f}",
            f"{figures[f'reward_{way}']:.3f} ± {figures[f'reward_{way}_spread']:.3f}",
        )
        for way, words in WAYS.items()
        if f"reward_{way}" in figures
    ]


def _simulated_rows(cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    ordered = sorted(cells, key=lambda cell: (cell["lengths"] != GROWTH, cell["lengths"], cell["servers"]))
    return [
        (
            cell["lengths"],
            str(cell["servers"]),
            words,
            f"{cell[way]['trained_tokens_per_second'] / cell['full']['trained_tokens_per_second']:.2f}",
            f"{cell[way]['loss_tokens_per_second'] / cell['full']['loss_tokens_per_second']:.2f}",
            f"{cell[way]['tail_idle_share']:.0%}",
            f"{cell[way]['infer_share']:.0%}",
            f"{cell[way]['iteration_seconds']:.0f}",
        )
        for cell in ordered
        for way, words in WAYS.items()
    ]


def _lengths_rows() -> list[Row]:
    return [
        (
            name,
            f"{lengths.median_tokens:,.0f}",
            f"{lengths.sigma:.2f}",
            f"{lengths.max_tokens:,}",
            f"{lengths.budget_tokens:,}",
            lengths.source,
        )
        for name, lengths in DISTRIBUTIONS.items()
    ]


def _table(head: Row, rows: Sequence[Row]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
