"""``report``: a selection's folder in, one HTML file out that tells what was selected and why."""

from pathlib import Path
from typing import Any

from nait_fast.config import ReportOptions
from nait_fast.errors import NaitError
from nait_fast.index.files import make_folder, write_atomic
from nait_fast.progress import say
from nait_fast.reporting.drawing import need_matplotlib
from nait_fast.reporting.gather import gather

FILE = "report.html"


def run(options: ReportOptions, quiet: bool = False) -> dict[str, Any]:
    """Write the report; returns a summary. Raises NaitError for bad input."""
    need_matplotlib()
    from nait_fast.reporting.figures import draw
    from nait_fast.reporting.page import render

    output = Path(options.output) if options.output else Path(options.selection) / FILE
    if output.is_dir():
        raise NaitError(f"--output {output}: is a folder; name a file, for example {output / FILE}")
    if output.suffix.lower() not in (".html", ".htm"):
        raise NaitError(f"--output {output}: name a file that ends in .html; another could be one of the selection's")
    if not Path(options.selection).is_dir():
        raise NaitError(f"{options.selection}: no such folder; give one that select or rank wrote")
    folder = make_folder(output.parent)
    plots = None if options.plots is None else make_folder(options.plots, "--plots")
    say("report: reading the selection", quiet)
    report = gather(options, folder)
    say("report: drawing", quiet)
    figures = draw(report, plots is not None)
    data = render(report, figures)
    write_atomic(output, data)
    files: list[str] = []
    if plots is not None:
        for drawing in (drawing for section in figures.values() for drawing in section):
            for name, content in ((f"{drawing.name}.svg", drawing.svg), (f"{drawing.name}.png", drawing.png)):
                write_atomic(plots / name, content)
                files.append(name)
    return {"output": str(output), "bytes": len(data), "plots": files, "notes": report.notes}
