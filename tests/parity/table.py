"""The tables of docs/weights.md: what was measured, and nothing else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.families.policies import FAMILIES
from tests.parity.cases import ALL, SERVER_SPLITS
from tests.parity.measure import Measured
from tests.parity.results import Results

BEGIN, END = "<!-- parity: written by tests.parity -->", "<!-- end of parity -->"
TITLES = {
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "mixtral": "Mixtral",
    "qwen3_moe": "Qwen3-MoE",
    "deepseek_v3": "DeepSeek-V3",
}
HEAD = """
{num} of {num_all} cases, measured {days}; largest distances in 10⁻⁶ nats. In {num_equal} the ranks' segment is what
one rank exports, which is the policy's own tensors, to the last bit; in {num_undone} what was exported, imported and
exported again is the same.

By family, over all splits of the trainer; a server reads what one rank has exported:

"""


def replaced(page: str, table: str) -> str:
    """Return a page with the text between the two marks replaced. ValueError: they are not there."""
    before, rest = page.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def render(results: Results) -> str:
    """Return the tables, in Markdown."""
    measured, gaps = list(results.measured.values()), results.gaps
    head = HEAD.format(
        num=len(measured),
        num_all=len(ALL),
        days=" and ".join(sorted(results.days)),
        num_equal=sum(one.is_export_equal for one in measured),
        num_undone=sum(one.is_import_undone for one in measured),
    )
    return "\n".join(
        [
            head.strip("\n"),
            "",
            *_by_family(measured, gaps),
            "",
            "Trainer to `transformers` in float32, by split:",
            "",
            *_by_split(measured),
        ]
    )


def _by_family(measured: Sequence[Measured], gaps: Mapping[str, Sequence[float]]) -> Iterator[str]:
    servers = [f"server TP {split} to `transformers`" for split in SERVER_SPLITS]
    servers += [f"trainer to server TP {split}" for split in SERVER_SPLITS]
    titles = ["family", "splits", "trainer to `transformers`", "trainer to float64", *servers]
    yield _row(titles)
    yield _row(["---", *["---:"] * (len(titles) - 1)])
    for family in FAMILIES:
        own = [one for one in measured if one.family == family]
        if own:
            yield _row(
                [
                    TITLES[family],
                    str(len(own)),
                    _shown(one.to_transformers for one in own),
                    _shown(one.to_exact for one in own),
                    *(_shown([gap]) for gap in gaps[family]),
                    *(_shown(one.to_servers[index] for one in own) for index in range(len(SERVER_SPLITS))),
                ]
            )


def _by_split(measured: Sequence[Measured]) -> Iterator[str]:
    distances = {(one.case, one.family): one.to_transformers for one in measured}
    yield _row(["split", *(TITLES[family] for family in FAMILIES)])
    yield _row(["---", *["---:"] * len(FAMILIES)])
    for case in sorted(dict.fromkeys(one.case for one in measured), key=_size):
        cells = [distances.get((case, family)) for family in FAMILIES]
        yield _row([case, *("" if cell is None else _shown([cell]) for cell in cells)])


def _size(case: str) -> tuple[int, str]:
    """Order cases by how many parts they have."""
    return (0, case) if case == "one rank" else (case.count(",") + 1, case)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(distances: Iterable[float]) -> str:
    return f"{max(distances) * 1e6:.1f}"
