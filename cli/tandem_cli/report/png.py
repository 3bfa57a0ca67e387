"""The picture of a run: learning, throughput and the timeline of phases and switches in one PNG."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from math import nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tandem_cli.report.history import History
from tandem_cli.report.palette import LENGTH, PHASES, REWARD, SETS, STAGES, THROUGHPUT, UNKNOWN
from tandem_cli.report.quantity import clock_text, fixed_text, plural_text, seconds_text, signed_text
from tandem_cli.report.summary import Summary, measured_ks, summarize
from tandem_cli.report.timeline import Lane, clock_of, lanes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _GRID = "#1c2430", "#667085", "#e4e7ec"
_MAX_LANES = 16
_STYLES_OF_K = ("-", "--", "-.")
_WINDOW = 5
"""Iterations of the moving mean."""


def write_png(history: History, path: Path) -> None:
    """Write the picture of a history, 1600 pixels wide."""
    picture(history).savefig(path, format="png")


def picture(history: History) -> Figure:
    """Return the panels: reward, response length with tokens/s, held-out sets if any, the timeline by member."""
    all_lanes = lanes(history)
    shown = all_lanes[:_MAX_LANES]
    held_out = [2.1] if history.evaluations else []
    heights = [2.5, 2.1, *held_out, 0.75 + 0.3 * max(2, len(shown))]
    failed = history.ended is not None and history.ended.result == "Failed"
    top = 1.35 if failed else 1.1
    figure = Figure(figsize=(10, sum(heights) + 1.2 + top), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    rewards, lengths, *evaluations, gantt = figure.subplots(len(heights), 1, height_ratios=heights)
    inches = figure.get_figheight()
    figure.subplots_adjust(left=0.13, right=0.91, top=1 - top / inches, bottom=0.85 / inches, hspace=0.42)

    _title(figure, history, summarize(history))
    _draw_rewards(rewards, history)
    _draw_lengths(lengths, history)
    for axes in evaluations:
        _draw_evaluations(axes, history)
    _draw_gantt(gantt, history, shown, len(all_lanes) - len(shown))
    return figure


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and up to window - 1 before it."""
    return [fmean(values[max(0, index + 1 - window) : index + 1]) for index in range(len(values))]


def _title(figure: Figure, history: History, summary: Summary) -> None:
    inches = figure.get_figheight()
    job = history.runs[0].started.job if history.runs else "no run"
    figure.text(0.035, 1 - 0.42 / inches, job, fontsize=17, fontweight="bold", color=_INK)
    figure.text(0.035, 1 - 0.68 / inches, _subtitle(summary), fontsize=10, color=_MUTED)
    if history.ended and history.ended.result == "Failed":
        message = history.ended.message.splitlines()[0][:140] if history.ended.message else "no cause was recorded"
        figure.text(0.035, 1 - 0.9 / inches, f"Failed: {message}", fontsize=10, fontweight="bold", color="#b42318")


def _subtitle(summary: Summary) -> str:
    parts = [plural_text(summary.iterations, "iteration"), clock_text(summary.seconds)]
    if summary.reward_first_5 is not None:
        first, last = fixed_text(summary.reward_first_5, 2), fixed_text(summary.reward_last_5, 2)
        parts.append(f"reward {first} → {last} ({signed_text(summary.reward_gain, 2)})")
    if summary.switches:
        to_infer = seconds_text(summary.train_to_infer_seconds_median)
        to_train = seconds_text(summary.infer_to_train_seconds_median)
        parts.append(f"{plural_text(summary.switches, 'switch')}, median {to_infer} / {to_train}")
    return "   ·   ".join(parts)


def _draw_rewards(axes: "Axes", history: History) -> None:
    _dress(axes, "Reward per iteration")
    if _says_nothing_yet(axes, history):
        return
    numbers = [record.iteration for record in history.iterations]
    values = [record.reward for record in history.iterations]
    axes.scatter(numbers, values, s=16, color=REWARD, alpha=0.45, linewidths=0, label="iteration")
    axes.plot(numbers, moving_mean(values, _WINDOW), color=REWARD, linewidth=2, label=f"mean of the last {_WINDOW}")
    axes.set_ylabel("mean reward")
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2, labelcolor=_MUTED)
    axes.margins(y=0.18)
    axes.set_xlim(*_iteration_limits(numbers))


def _draw_lengths(axes: "Axes", history: History) -> None:
    _dress(axes, "Response length and throughput per iteration")
    if _says_nothing_yet(axes, history):
        return
    numbers = [record.iteration for record in history.iterations]
    axes.plot(
        numbers, [record.response_tokens for record in history.iterations], color=LENGTH, linewidth=1.8, marker="o",
        markersize=2.5,
    )  # fmt: skip
    axes.set_ylabel("response, tokens", color=LENGTH)
    rates = axes.twinx()
    rates.plot(
        numbers, [record.tokens_per_second for record in history.iterations], color=THROUGHPUT, linewidth=1.4,
        linestyle=(0, (4, 2)),
    )  # fmt: skip
    axes.set_ylim(0, 1.15 * max(1e-9, *(record.response_tokens for record in history.iterations)))
    axes.set_xlim(*_iteration_limits(numbers))
    fastest = max(1e-9, *(record.tokens_per_second for record in history.iterations))
    _dress_right(rates, "tokens/s (dashed)", THROUGHPUT, fastest)
    axes.set_xlabel("iteration", fontsize=9, color=_MUTED)


def _draw_evaluations(axes: "Axes", history: History) -> None:
    """Draw, of each held-out set over generations, every pass@k on the left and the mean length on the right."""
    _dress(axes, "Held-out sets per generation")
    tokens = axes.twinx()
    longest, widest = 1e-9, 0
    for index, (name, records) in enumerate(history.sets.items()):
        color = SETS[index % len(SETS)]
        generations = [record.generation for record in records]
        for k, style in zip(measured_ks(records), cycle(_STYLES_OF_K), strict=False):
            values = [record.pass_at.get(k, nan) for record in records]
            label = f"{name}: pass@{k}"
            axes.plot(
                generations, values, color=color, linewidth=1.8, linestyle=style, marker="o", markersize=3, label=label
            )
        lengths = [record.mean_tokens if record.samples else nan for record in records]
        tokens.plot(generations, lengths, color=color, linewidth=1.2, linestyle=":", alpha=0.7)
        longest, widest = max(longest, *(record.mean_tokens for record in records)), max(widest, *generations)
    axes.set_ylabel("share solved")
    axes.set_ylim(-0.03, 1.25)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xlim(-0.5, widest + 0.5)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=4, labelcolor=_MUTED, handlelength=3)
    axes.set_xlabel("generation", fontsize=9, color=_MUTED)
    _dress_right(tokens, "response, tokens (dotted)", _MUTED, longest)


def _dress_right(axes: "Axes", label: str, color: str, highest: float) -> None:
    """Give the right axis of a panel its look; it begins at 0."""
    axes.set_ylabel(label, color=color, fontsize=9)
    axes.set_ylim(0, 1.15 * highest)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def _iteration_limits(numbers: Sequence[int]) -> tuple[float, float]:
    """Return the limits of an iteration axis, the same for every panel."""
    margin = max(0.5, 0.012 * (numbers[-1] - numbers[0]))
    return numbers[0] - margin, numbers[-1] + margin


def _draw_gantt(axes: "Axes", history: History, shown: Sequence[Lane], num_hidden: int) -> None:
    clock = clock_of(history)
    hidden = f" (and {num_hidden} more members)" if num_hidden else ""
    _dress(axes, f"Who holds the GPUs{hidden}")
    axes.grid(visible=False)
    if not shown:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no switch took place", ha="center", va="center", transform=axes.transAxes, color=_MUTED)
        return
    for row, lane in enumerate(shown):
        _draw_lane(axes, row, lane)
    for seam in clock.seams:
        axes.axvline(seam, color=_INK, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(shown)), [lane.caption for lane in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(clock.end, 1e-3))
    axes.set_xlabel("run time, seconds" + (" (dotted: resumed)" if clock.seams else ""), fontsize=9, color=_MUTED)
    _legend(axes, shown)


def _draw_lane(axes: "Axes", row: int, lane: Lane) -> None:
    spans: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for bar in lane.bars:
        spans[bar.kind, bar.label].append((bar.start_seconds, bar.seconds))
    for (kind, label), stretches in spans.items():
        phase = kind == "phase"
        axes.broken_barh(
            stretches,
            (row - 0.36, 0.72),
            facecolor=PHASES[label] if phase else STAGES.get(label, UNKNOWN),
            alpha=0.32 if phase else 1.0,
            linewidth=0,
        )


def _legend(axes: "Axes", shown: Sequence[Lane]) -> None:
    present = {bar.label for lane in shown for bar in lane.bars}
    handles = [Patch(color=color, alpha=0.32, label=name) for name, color in PHASES.items() if name in present]
    handles += [Patch(color=color, label=name) for name, color in STAGES.items() if name in present]
    axes.figure.legend(
        handles=handles, loc="lower center", ncols=11, frameon=False, fontsize=8, handlelength=1.1, columnspacing=1.1,
        labelcolor=_INK,
    )  # fmt: skip


def _dress(axes: "Axes", title: str) -> None:
    """Give an axes the common look."""
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=_INK, pad=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    axes.yaxis.label.set_fontsize(9)
    axes.yaxis.label.set_color(_MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _says_nothing_yet(axes: "Axes", history: History) -> bool:
    """Return whether there is nothing to draw, after writing so on the axes."""
    if history.iterations:
        return False
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no iteration finished", ha="center", va="center", transform=axes.transAxes, color=_MUTED)
    return True
