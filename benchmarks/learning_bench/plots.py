"""The pictures of docs/results.md: small PNGs, one for each comparison."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.learning_bench.curves import mean_curve
from benchmarks.learning_bench.figures import SAMPLING_LEVEL, real_of, reported
from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.trials import LENGTH_WARM_UP, METHODS, Group
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#009e73")
NUM_COLOURS = 96
"""Of a picture: a third of the bytes are enough for them."""
INK, MUTED, GRID = "#1c2430", "#667085", "#e4e7ec"
Curve = Callable[[Outcome], Sequence[float]]


def draw(group: Group, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the picture of one comparison."""
    PICTURES[group](outcomes, path)


def _draw_objectives(outcomes: Sequence[Outcome], path: Path) -> None:
    figure, (accuracy, rewards) = _figure()
    _dress(accuracy, "Accuracy of the policy, held-out problems", "iterations")
    _dress(rewards, "Mean sampled reward; dashed: vLLM and Megatron-Core", "iteration")
    for name, colour in _colours(Group.OBJECTIVES):
        runs = reported(outcomes, name)
        _lines(accuracy, runs, lambda run: run.accuracies, colour, name, first=0)
        _lines(rewards, runs, lambda run: run.rewards, colour, name, first=1)
        real = real_of(outcomes, name)
        if real is not None:
            numbers = range(1, len(real.rewards) + 1)
            rewards.plot(numbers, real.rewards, color=colour, linewidth=1.6, linestyle=(0, (3, 1.5)))
    _save(figure, accuracy, path)


def _draw_length(outcomes: Sequence[Outcome], path: Path) -> None:
    figure, (accuracy, lengths) = _figure()
    _dress(accuracy, "Accuracy of the policy, held-out problems", "iterations")
    _dress(lengths, "Mean length of responses, tokens", "iteration")
    for name, colour in _colours(Group.LENGTH):
        runs = reported(outcomes, name)
        _lines(accuracy, runs, lambda run: run.accuracies, colour, name, first=0)
        _lines(lengths, runs, lambda run: run.response_tokens, colour, name, first=1)
    lengths.set_ylim(bottom=0)
    for axes in (accuracy, lengths):
        axes.axvline(LENGTH_WARM_UP, color=MUTED, linewidth=0.8, linestyle=":")
    _save(figure, accuracy, path)


def _draw_sampling(outcomes: Sequence[Outcome], path: Path) -> None:
    figure, (accuracy, shares) = _figure()
    _dress(accuracy, "Accuracy of the policy, held-out problems", "iterations")
    _dress(shares, "Share of hard problems in what is drawn", "iteration")
    for name, colour in _colours(Group.SAMPLING):
        runs = reported(outcomes, name)
        _lines(accuracy, runs, lambda run: run.accuracies, colour, name, first=0)
        _lines(shares, runs, lambda run: run.hard_shares, colour, name, first=1)
    shares.set_ylim(bottom=0)
    accuracy.axhline(SAMPLING_LEVEL, color=MUTED, linewidth=0.8, linestyle=":")
    _save(figure, accuracy, path)


PICTURES: dict[Group, Callable[[Sequence[Outcome], Path], None]] = {
    Group.OBJECTIVES: _draw_objectives,
    Group.LENGTH: _draw_length,
    Group.SAMPLING: _draw_sampling,
}


def _colours(group: Group) -> list[tuple[str, str]]:
    names = [method.name for method in METHODS if method.group is group]
    return list(zip(names, COLOURS, strict=False))


def _lines(axes: "Axes", runs: Sequence[Outcome], curve: Curve, colour: str, name: str, *, first: int) -> None:
    """Draw each seed thinly and their mean. `first`: number of the first value."""
    for run in runs:
        values = curve(run)
        axes.plot(range(first, first + len(values)), values, color=colour, linewidth=0.7, alpha=0.4)
    mean = mean_curve([curve(run) for run in runs])
    axes.plot(range(first, first + len(mean)), mean, color=colour, linewidth=2, label=name.replace("_", " "))


def _figure() -> tuple[Figure, tuple["Axes", "Axes"]]:
    figure = Figure(figsize=(9.6, 3.4), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def _dress(axes: "Axes", title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.set_xlabel(below, fontsize=8, color=MUTED)


def _save(figure: Figure, named: "Axes", path: Path) -> None:
    named.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = BytesIO()
    figure.savefig(pixels, format="png")
    Image.open(pixels).convert("RGB").quantize(NUM_COLOURS).save(path, format="png", optimize=True)
