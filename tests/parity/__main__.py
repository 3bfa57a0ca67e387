"""Measure the matrix and write its tables: `python -m tests.parity --json OUT --docs docs/weights.md`.

What OUT names already is not measured again; each case is in it as soon as it is measured. So the matrix may be
measured in pieces: interrupt it (Ctrl-C ends it after the case that runs) and give the same command again.
"""

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import torch

from tests.families.policies import FAMILIES
from tests.parity.cases import ALL, Case, cases_of
from tests.parity.measure import SERVER_LIMIT, Bench, Measured
from tests.parity.results import Results
from tests.parity.table import render, replaced
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.serving import Engine, running_engine


@click.command()
@click.option("--only", "families", multiple=True, type=click.Choice(FAMILIES), help="This family; may be repeated.")
@click.option("--splits", default="", metavar="REGEX", help="Only splits whose name has this, as in `tensor 2, pipe`.")
@click.option("--json", "path", type=click.Path(path_type=Path), required=True, help="Add the results to this file.")
@click.option("--docs", type=click.Path(path_type=Path), help="Write the tables into this page, once all is measured.")
def main(families: tuple[str, ...], splits: str, path: Path, docs: Path | None) -> None:
    """Compare every family in every split of trainer and server. 1: a limit is broken, or a page has to wait."""
    torch.set_num_threads(1)
    results = Results.read(path)
    chosen = [case for family in families or FAMILIES for case in cases_of(family) if re.search(splits, case.name)]
    wanted = [case for case in chosen if not results.has(case)]
    click.echo(f"{len(chosen)} of {len(ALL)} cases are asked for; {len(chosen) - len(wanted)} are in {path} already")
    with tempfile.TemporaryDirectory(prefix="parity-") as folder, Forge() as forge:
        if wanted:
            asyncio.run(_measure(Bench(forge, Path(folder)), wanted, results))
    is_written = docs is None or _written(docs, results)
    faults = list(_faults(results))
    click.echo("\n".join(faults or [f"all {len(results.measured)} measured cases are within the limits"]))
    sys.exit(0 if is_written and not faults else 1)


async def _measure(bench: Bench, wanted: Sequence[Case], results: Results) -> None:
    """Measure cases in turn. Cancelled between two of them, never within one."""
    async with running_engine(bench.origin(wanted[0].family).policy) as engine:
        for number, case in enumerate(wanted, 1):
            if case.family not in bench.served_families:
                await _serve(bench, engine, case.family, results)
            began = time.monotonic()
            measured = bench.measure(case)
            results.add(measured)
            click.echo(f"[{number}/{len(wanted)}] {_told(measured)} ({time.monotonic() - began:.1f} s)")
            await asyncio.sleep(0)


async def _serve(bench: Bench, engine: Engine, family: str, results: Results) -> None:
    gaps = [served.gap for served in await bench.serve(engine, family)]
    results.add_servers(family, gaps)
    click.echo(f"{family}: servers to transformers {' '.join(f'{gap:.1e}' for gap in gaps)}")


def _told(measured: Measured) -> str:
    distances = [measured.to_transformers, measured.to_exact, *measured.to_servers]
    told = f"{measured.family}, {measured.case}: {' '.join(f'{distance:.1e}' for distance in distances)}"
    return told if measured.is_exact else f"{told} BEYOND THE LIMITS: {measured}"


def _faults(results: Results) -> Iterator[str]:
    """Yield a line for each case and each family's servers beyond a limit."""
    yield from (_told(one) for one in results.measured.values() if not one.is_exact)
    for family, gaps in results.gaps.items():
        if max(gaps) > SERVER_LIMIT:
            yield f"{family}: servers are {max(gaps):.1e} from transformers, more than {SERVER_LIMIT}"


def _written(docs: Path, results: Results) -> bool:
    """Write the page and return True, or say what it waits for: a table with holes would look whole."""
    missing = list(results.missing())
    if missing:
        first = missing[0]
        click.echo(f"{docs}: {len(missing)} cases are missing, first {first.family}, {first.name}; nothing was written")
        return False
    docs.write_text(replaced(docs.read_text(), render(results)))
    return True


if __name__ == "__main__":
    main()
