"""The options that every benchmark takes."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path


def option_parser(description: str, *, quick: str, parts: Iterable[str] = ()) -> ArgumentParser:
    """Return a parser of `--quick`, `--json` and, where the benchmark has parts, `--only`. `quick`: what it changes."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    if names := tuple(parts):
        parser.add_argument("--only", action="append", choices=names, default=[], help="this part; may be repeated")
    return parser


def add_samples(parser: ArgumentParser, least: int = 1) -> None:
    """Let the number of samples be given: None where it is not."""
    parser.add_argument("--samples", type=whole(least), metavar="N", help="so many samples instead")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what reads an option's whole number, within these bounds."""
    bounds = f"at least {least}" if most is None else f"{least} to {most}"

    def read(word: str) -> int:
        number = int(word) if word.isdecimal() else None
        if number is None or number < least or (most is not None and number > most):
            raise ArgumentTypeError(f"{word}: a whole number, {bounds}")
        return number

    return read
