"""``report``: a selection's folder in, one HTML file out that tells what was selected and why."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from nait_fast import evaluation, validation
from nait_fast.config import ReportOptions
from nait_fast.errors import BadInput, Mismatch
from nait_fast.outputs.fetched import local_copy
from nait_fast.outputs.inputs import check_inputs, inputs_of
from nait_fast.outputs.output_folder import Output, sweep
from nait_fast.outputs.recognise import HTML, State, is_plain, refuse, seal_of, sealed
from nait_fast.progress import say
from nait_fast.ranking.selection_files import REPORT
from nait_fast.remote.copies import named, refuse_url
from nait_fast.reporting.answer import training_line
from nait_fast.reporting.contents import gather, sweep_scratch
from nait_fast.reporting.drawing import need_matplotlib
from nait_fast.reporting.selection_folder import open_selection
from nait_fast.storage.files import make_folder, write_atomic
from nait_fast.storage.lock import FOLDER_LOCK, OutputLock
from nait_fast.urls import is_url
from nait_fast.verbs.selection_output import answers

_TITLE = " – nait_fast</title>".encode()


def run(options: ReportOptions, quiet: bool = False) -> dict[str, Any]:
    """Write the report; returns a summary. Raises NaitError for bad input."""
    refuse_url(options.output)
    if is_url(options.selection):
        if options.output is None:
            raise BadInput("lies elsewhere", where=options.selection, remedy="name the page with --output")
        options = dataclasses.replace(options, selection=str(local_copy(options.selection)))
    need_matplotlib()
    from nait_fast.reporting.figures import draw
    from nait_fast.reporting.page import render

    output = Path(options.output) if options.output else Path(options.selection) / REPORT
    if output.is_dir():
        raise BadInput("is a folder", where=f"--output {output}", remedy=f"name a file, for example {output / REPORT}")
    if output.suffix.lower() not in (".html", ".htm"):
        raise BadInput(
            "name a file that ends in .html; another could be one of the selection's", where=f"--output {output}"
        )
    if not Path(options.selection).is_dir():
        what = "is a file" if Path(options.selection).exists() else "no such folder"
        raise BadInput(what, where=options.selection, remedy="give the folder that select or rank wrote")
    folder = make_folder(output.parent)
    inside = folder.resolve() == Path(options.selection).resolve()
    lock = folder / FOLDER_LOCK if inside else folder / f".{output.name}.lock"
    mine = {output.name}.__contains__

    def alone() -> None:
        sweep(folder, mine)
        sweep_scratch(output)

    with OutputLock(lock, f"--output {output}", keep=inside, alone=alone):
        check_inputs(folder, mine, _read(options))
        of = _question(options)
        _check(output, of, options)
        plots = None if options.plots is None else make_folder(options.plots, "--plots")
        say("report: reading the selection", quiet)
        report = gather(options, output)
        say("report: drawing", quiet)
        figures = draw(report, plots is not None)
        data = sealed(render(report, figures), of, HTML)
        report.chosen.check_unchanged()
        files: list[str] = []
        drawn: dict[str, bytes] = {}
        for drawing in (drawing for section in figures.values() for drawing in section):
            drawn |= {f"{drawing.name}.svg": drawing.svg, f"{drawing.name}.png": drawing.png}
        if plots is not None:
            locked = inside and plots.resolve() == folder.resolve()
            with Output(plots, drawn, overwrite=options.overwrite, flag="--plots", lock=not locked) as place:
                place.check_question(of, "plots of another selection")
                stage = place.begin()
                for name, content in drawn.items():
                    write_atomic(stage / name, content)
                    files.append(name)
                place.done(of)
        _check(output, of, options)  # something may have come there meanwhile
        write_atomic(output, data)
    summary = {"output": str(output), "bytes": len(data), "plots": files, "notes": report.notes}
    lines = [f"{output} ({len(data) / 1e6:.1f} MB), to be opened in a browser", *(f"  - {n}" for n in report.notes)]
    lines += [f"{len(files)} plots in {plots}"] if files else []
    return {**summary, "text": "\n".join([*lines, "", training_line(named(Path(options.selection)))])}


def _read(options: ReportOptions) -> list[tuple[str, str]]:
    """What a report reads beside the selection, whose folder it may lie in: of another result's folder, the file."""
    results = {
        "--evaluation": (options.evaluation, evaluation.FILE),
        "--validation": (options.validation, validation.FILE),
    }
    files_read = [(flag, path) for flag, path in inputs_of(options) if flag not in ("--selection", *results)]
    for flag, (given, name) in results.items():
        if given is not None:
            path = local_copy(given)
            files_read.append((flag, str(path / name if path.is_dir() else path)))
    return files_read


def _question(options: ReportOptions) -> str:
    """What the selection answers."""
    manifest = open_selection(options.selection).manifest
    return answers(manifest["signatures"], manifest["datasets"])


def _check(output: Path, of: str, options: ReportOptions) -> None:
    """Raises NaitError where another file, or the report of another selection than ``of``, is in the way."""
    if not os.path.lexists(output):
        return
    state, made = _state(output)
    refuse(output, state, options.overwrite)
    inside = output.parent.resolve() == Path(options.selection).resolve()  # it goes with whatever is selected there
    if not inside and made not in (None, of) and not options.overwrite:
        raise Mismatch(
            "is the report of another selection",
            where=output,
            remedy="choose another --output, or pass --overwrite to replace it",
        )


def _state(output: Path) -> tuple[State, str | None]:
    if not is_plain(output):
        return State.FOREIGN, None
    seal = seal_of(output, HTML)
    if seal is not None:
        return seal
    with open(output, "rb") as file:
        old = _TITLE in file.read(1 << 12)  # of a version that did not seal its pages
    return (State.WHOLE if old else State.FOREIGN), None
