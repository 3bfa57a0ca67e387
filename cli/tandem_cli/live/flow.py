"""Pieces of text laid out in lines that break between pieces, never inside one."""

from collections.abc import Iterable

from rich.text import Text


def flow(pieces: Iterable[Text], width: int, separator: str) -> Text:
    """Return pieces joined by a separator, broken into lines of at most `width` columns where that is possible."""
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + len(separator) + piece.cell_len <= width:
            lines[-1].append(separator, style="dim").append_text(piece)
        else:
            lines.append(piece.copy())
    return Text("\n").join(lines)
