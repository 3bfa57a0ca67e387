"""Sections of a page that scripts write: each its own, between two markers, whatever else is there."""

from pathlib import Path

HEAD = """# Results

What Tandem learns and how fast it samples, measured. Every section was written by the script that it names.
"""


def put_section(path: Path, name: str, body: str) -> None:
    """Write a section of a page: in place of what it said before, or at the end. The rest stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(with_section(path.read_text() if path.exists() else HEAD, name, body))


def with_section(page: str, name: str, body: str) -> str:
    """Return the page with this section."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    section = f"{begin}\n{body.strip()}\n{end}"
    before, found, rest = page.partition(begin)
    if not found:
        return f"{page.rstrip()}\n\n{section}\n"
    return f"{before}{section}{rest.partition(end)[2]}"
