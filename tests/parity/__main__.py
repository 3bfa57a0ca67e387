"""Measure every case and write the tables: `python -m tests.parity --json OUT --docs docs/weights.md`.

Families may be measured one after another: what --json names is read first, and what is new is added.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from tests.families.policies import FAMILIES
from tests.parity.cases import cases_of
from tests.parity.measure import Bench, Measured
from tests.parity.table import render, replaced
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.serving import running_engine


@click.command()
@click.option("--family", "families", multiple=True, type=click.Choice(FAMILIES), help="Only these. [default: all]")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), required=True, help="Add the result to this file."
)
@click.option("--docs", type=click.Path(path_type=Path), help="Write the tables into this page.")
def main(families: tuple[str, ...], json_path: Path, docs: Path | None) -> None:
    """Compare every family in every split."""
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(json_path.read_text()) if json_path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="parity-") as folder, Forge() as forge:
        asyncio.run(_measure(Bench(forge, Path(folder)), families or FAMILIES, found, json_path.write_text))
    if docs is not None:
        everything = [Measured(**one) for family in found.values() for one in family["measured"]]
        gaps_of = {name: family["gaps"] for name, family in found.items()}
        docs.write_text(replaced(docs.read_text(), render(everything, gaps_of)))


async def _measure(
    bench: Bench, families: Sequence[str], found: dict[str, Any], write: Callable[[str], object]
) -> None:
    """Add what is found about each family, and write it down at once."""
    async with running_engine(bench.origin(families[0]).policy) as engine:
        for family in families:
            gaps = [served.gap for served in await bench.serve(engine, family)]
            measured = [asdict(_told(bench.measure(case))) for case in cases_of(family)]
            found[family] = {"gaps": gaps, "measured": measured}
            write(json.dumps(found, indent=1))


def _told(measured: Measured) -> Measured:
    click.echo(measured)
    return measured


if __name__ == "__main__":
    main()
