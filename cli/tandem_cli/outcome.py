"""What stays of a run: tables on the console, summary, picture and page in the run folder."""

from pathlib import Path

from tandem_cli.display import Display
from tandem_cli.errors import MachineError
from tandem_cli.report.history import HistoryError, read_history
from tandem_cli.report.page import write_page
from tandem_cli.report.summary import summarize
from tandem_cli.report.table import render_end
from tandem_cli.session import Session


def write_outcome(session: Session, display: Display, summary_path: Path | None) -> None:
    """Write summary.json, report.png and report.html, and show the end; a run without history has none."""
    # Matplotlib takes longer to import than everything else together; only the end of a run needs it.
    from tandem_cli.report.png import write_png

    if not session.history.exists():
        return
    try:
        history = read_history(session.history)
    except HistoryError as error:
        raise MachineError(str(error)) from None
    summary = summarize(history)
    page = session.folder / "report.html"
    try:
        for path in (session.folder / "summary.json", *([summary_path] if summary_path else [])):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(summary.model_dump_json(indent=2) + "\n")
        write_png(history, session.folder / "report.png")
        write_page(history, session.job.metadata.name, page)
    except OSError as error:
        raise MachineError(f"{error.filename}: cannot be written ({error.strerror}); free space or permit it") from None
    display.show(render_end(history, summary, page))
    policy = session.folder / "policy"
    if policy.is_dir():
        display.line(f" policy: {policy} (Hugging Face format)    again: tandem up … --resume or --fresh")
