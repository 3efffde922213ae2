"""``bench``: what this machine reaches, checked before it is timed."""

from typing import Any

from nait_fast.bench.results import ResultFile, read_results, side_by_side, state_of, tables
from nait_fast.bench.run import ALONE, CEILING_SECONDS, PARTS, MeasuredDevice, Subject, cli_rows, devices_of
from nait_fast.config import BENCH_SHAPES, BenchOptions
from nait_fast.errors import BadInput
from nait_fast.progress import say
from nait_fast.remote.copies import refuse_url


def _compare(options: BenchOptions) -> dict[str, Any]:
    sources = read_results(options.compare)
    text = side_by_side(sources)
    if not text:
        raise BadInput("no row in these files has a number", where="--compare")
    return {"text": text, "sources": {name: len(rows) for name, rows in sources.items()}}


def run(options: BenchOptions, quiet: bool = False) -> dict[str, Any]:
    """Measure, or show files of earlier measurements side by side; returns a summary whose ``text`` is the tables."""
    if options.compare:
        return _compare(options)
    if options.model and options.shape:
        raise BadInput("choose one of them", where="--model, --shape")
    devices = devices_of(options.device)
    shape = options.shape or BENCH_SHAPES[0]
    refuse_url(options.output)
    file = ResultFile(options.output)
    rows: list[dict[str, Any]] = []
    try:
        for device in devices:
            subject = Subject(shape, options.model, device, options.dtype, options.seed)
            if options.part == ALONE:
                for row in cli_rows(subject, options.rows, options.max_length, quiet):
                    rows.append(row)
                    file.add(row)
                continue
            if options.model:
                subject.load()  # a wrong path fails before minutes have gone by
            say(f"bench: ceilings of {device}", quiet)
            seconds = options.seconds if options.part == "ceilings" else min(options.seconds, CEILING_SECONDS)
            measured = MeasuredDevice.open(device, options.dtype, seconds, subject.small)
            # The ceilings are in every run's rows: the shares of them refer to this run's.
            for part in PARTS if options.part == "all" else dict.fromkeys(("ceilings", options.part)):
                for row in measured.rows(part, subject, options.seconds, options.max_length, quiet):
                    rows.append(row)
                    file.add(row)
            subject.forget()
    finally:
        file.close()
    text = tables(rows)
    if len(devices) > 1:
        by_device: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_device.setdefault(f"{row['hardware']}, {row['device']}", []).append(row)
        text += "\n\nside by side\n\n" + side_by_side(by_device)
    failed = [row["name"] for row in rows if state_of(row) == "failed"]
    if failed:
        text += f"\n\n{len(failed)} checks failed, no times for these: {'; '.join(failed)}"
    return {"text": text, "failed": failed, "output": options.output, "rows": rows}
