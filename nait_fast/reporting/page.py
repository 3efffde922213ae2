"""A report as one HTML file that needs nothing else: no script, font or picture from anywhere. Its own script, which
searches the list of rows, is the only one that its policy lets run; all can be read without it."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Set
from itertools import pairwise
from pathlib import Path
from typing import Any

from nait_fast.config import RULES
from nait_fast.methods import method_of
from nait_fast.reporting import formatting, provenance, trained_arms
from nait_fast.reporting.answer import combined_told, turns_told
from nait_fast.reporting.contents import TOP, Report, ShownSample, target_lengths
from nait_fast.reporting.drawing import Drawing
from nait_fast.reporting.evaluation_file import Evaluation
from nait_fast.reporting.explained import TargetSamples
from nait_fast.reporting.figures import MOST_TARGETS, target_cuts
from nait_fast.reporting.layers import MOST_NEURONS, TELLING_SHARE, Deciders
from nait_fast.reporting.samples import Labels, Text
from nait_fast.reporting.target_samples import NearSample
from nait_fast.reporting.validation_file import BETTER, WORSE, Validation
from nait_fast.reporting.variety import NEAR_SHARE, SEED, NearRows

SHOWN_CHARACTERS, KEPT_CHARACTERS = 320, 4000  # of a turn at once, and with what unfolds
MOST_TURNS = 8
TABLE_ROWS = 40
MOST_SCORES = 3  # columns of scores in the list
MOST_LAYERS, STRIP_HEIGHT = 3, 40  # of a row that are told in words; of the bars beside them
KEPT = "a signature keeps what it takes where that is at most 64 MiB, or with --keep-samples"
STRONG = 0.5  # |Spearman| with length above which a reader is warned


def render(report: Report, figures: dict[str, list[Drawing]]) -> bytes:
    """The page; the same report gives the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: formatting.clean(value) if type(value) is str else value,
    )
    environment.filters |= {
        "number": formatting.number,
        "signed": formatting.signed,
        "percent": formatting.percent,
        "correlation": formatting.correlation,
        "fixed": formatting.fixed,
        "counted": lambda n: formatting.count(n, "row"),
        "svg": Markup,
    }
    js = (folder / "page.js").read_text(encoding="utf-8")
    context = {
        "title": title(report),
        "summary": summary(report),
        "warnings": list(warnings(report)),
        "notes": [*report.notes, *_left_out(report)],
        "css": Markup((folder / "page.css").read_text(encoding="utf-8")),
        "js": Markup(js),
        "js_digest": base64.b64encode(hashlib.sha256(js.encode()).digest()).decode(),
        "figures": figures,
        "report": report,
        "targets": target_table(report),
        "cuts_told": cuts_told(report),
        "turns": turns_told(report.chosen.manifest.get("turns", {})),
        "composition": None if report.labels is None else label_table(report.labels),
        "best": [sample(report, s) for s in report.best],
        "worst": [sample(report, s) for s in report.worst],
        "inside": [sample(report, s) for s in report.inside],
        "outside": [sample(report, s) for s in report.outside],
        "no_cut": no_cut(report),
        "explained": list(explained(report)),
        "listed": listing(report),
        "evaluation": report.evaluation,
        "validated": None if report.validation is None else validated(report.validation),
        "ranked_by": ranked_by(report.evaluation),
        "rules": RULES,
        "lengths_untold": list(lengths_untold(report)),
        "near": None if report.variety is None else near_table(report.variety.near, report.chosen.manifest),
        "examples": list(examples(report.evaluation)),
        "provenance": provenance.tables(report.chosen),
        "command": provenance.command(report.chosen),
        "top": TOP,
    }
    text = environment.get_template("page.html").render(context)
    return text.encode()


def _left_out(report: Report) -> Iterator[str]:
    if (targets := len(report.chosen.targets)) > MOST_TARGETS:
        yield f"Of {targets} targets, the first {MOST_TARGETS} are drawn; the table of scores has all."


def title(report: Report) -> str:
    shown = [formatting.short(name, 40) for name in report.chosen.targets[:6]]
    return f"Selection for {formatting.listed(shown)}" + (" …" if len(report.chosen.targets) > 6 else "")


def summary(report: Report) -> str:
    """What was selected, in words."""
    chosen, manifest = report.chosen, report.chosen.manifest
    selected, rows = manifest["rows_selected"], manifest["rows_scored"]
    pools = formatting.listed([Path(d["path"]).name or d["path"] for d in manifest["datasets"]][:3])
    more = len(manifest["datasets"]) - 3
    how = {"top": "the best", "bottom": "the worst", "random": "at random"}.get(str(chosen.config.get("pick")), "")
    methods = formatting.listed(list(dict.fromkeys(chosen.methods)))
    text = f"Out of {formatting.count(rows, 'sample')} of {pools}{f' and {more} more' if more > 0 else ''}, "
    text += f"nait-fast {manifest['verb']} chose {how} {selected:,} ({formatting.percent(selected / rows)}"
    tokens = formatting.count(manifest["tokens_selected"], "token")
    whole = report.scores is not None and report.scores.whole
    text += f"; {tokens}" + (f" of {report.scores.tokens:,}" if whole and report.scores else "") + ") "
    text += f"for {formatting.listed([formatting.short(name, 40) for name in chosen.targets])}"
    if len(chosen.targets) > 1:
        text += f" ({combined_told(manifest)})"
    text += f", by method {methods}"
    text += f" and rule {manifest['rule']}" if "rule" in manifest else ""
    text += f", length {manifest['length']}" if chosen.matched else ""
    text += f", {manifest['quality']['column']} mixed in" if "quality" in manifest else ""
    text += f", within {formatting.listed(chosen.passed)}" if chosen.passed else ""
    text += f", with {Path(manifest['model_name']).name}."
    left = manifest["rows_skipped"]["rows"]
    return text + (f" {formatting.count(left, 'row')} of the pool could not be used." if left else "")


def warnings(report: Report) -> Iterator[str]:
    """What a reader should know before training on the selection: what was said when it was made, first."""
    yield from report.chosen.warnings
    manifest = report.chosen.manifest
    for name, rho in manifest["spearman_with_length"].items() if "mean_scores" not in manifest else ():  # of before
        if rho is not None and abs(rho) > STRONG:
            kind, spearman = "long" if rho > 0 else "short", formatting.correlation(rho)
            yield (
                f"The score for {formatting.short(name, 40)} goes with length (Spearman {spearman}): {kind} samples "
                "tend to come first. Look at the lengths and samples below before you train on this selection."
            )
    for part in report.layers:
        top = max(zip(part.share, part.layers, strict=True), default=(0.0, 0))
        if top[0] > STRONG:
            yield f"Layer {top[1]} alone makes {formatting.percent(float(top[0]))} of the score for {part.target}."


def no_cut(report: Report) -> str:
    """Why there are no rows at a cut."""
    scores, selected = report.scores, report.chosen.manifest["rows_selected"]
    if scores is None or not scores.whole:
        return "Which rows were just left out is not told: only the selected ones' scores are known."
    if selected == report.chosen.rows:
        return "All rows were selected: there is no cut."
    return "There is no cut: rows were selected otherwise than from one end of the ranking on, or no others were left."


def listing(report: Report) -> dict[str, Any]:
    """The list of selected rows: ``targets`` whose scores have a column each; ``standing``: whether the target that a
    row stands out for has one."""
    targets, selected = report.chosen.targets, report.chosen.manifest["rows_selected"]
    rows = report.listed
    says = f"All {selected:,} selected rows, best first"
    if len(rows) < selected:
        says = f"The first {len(rows):,} of {selected:,} selected rows, best first; --samples all lists every one"
    several = len(targets) > 1 and report.scores is not None and report.scores.whole
    shown = targets if len(targets) <= MOST_SCORES else []
    names = [*targets, *([report.labels.column, *report.labels.selected] if report.labels else [])]
    name = f"{min(10.0, max(6.0, 1 + 0.6 * max(map(len, names)))):.1f}rem"  # a name in one line, unless it is long
    widths = ["4rem", *[name, "7rem"] * several, *[name] * len(shown), "5rem", *[name] * (report.labels is not None)]
    widths += ["5rem", "minmax(0, 1fr)"]
    return {
        "rows": rows,
        "says": f"{says}.",
        "targets": shown,
        "standing": several,
        "columns": " ".join(widths),
        "ids": any(row.ranked.id for row in rows),
    }


def validated(validation: Validation) -> dict[str, Any]:
    """What training found: ``verdicts`` with how they are marked, ``told``, what was trained; ``sets``: headings of
    the columns of each; ``arms`` and, apart from them, ``tenths`` of a ranking."""
    marks = {BETTER: "for", WORSE: "against"}
    names = [formatting.short(x.name, 40) for x in validation.sets]
    return {
        "verdicts": [
            {
                "target": formatting.short(v.target, 40),
                "text": v.text.replace(" ± ", "\u00a0±\u00a0"),
                "mark": marks.get(v.word, "open"),
            }
            for v in validation.verdicts
        ],
        "elsewhere": list(trained_arms.elsewhere(validation)),
        "right": list(trained_arms.right_told(validation)),
        "told": trained_arms.trained_told(validation),
        "sets": [
            {"loss": f"loss on {name}", "difference": f"against random on {name}", "accuracy": f"accuracy on {name}"}
            | {"has_accuracy": has}
            for name, has in zip(names, trained_arms.sets_with_accuracy(validation), strict=True)
        ],
        "arms": trained_arms.arms_in_words(validation, tenths=False),
        "tenths": trained_arms.arms_in_words(validation, tenths=True),
        "compared": any(arm.against_random for arm in validation.arms),
        "untold": trained_arms.untold(validation),
        "warnings": validation.warnings,
    }


def target_table(report: Report) -> list[dict[str, Any]]:
    """A row for each target."""
    scores, chosen = report.scores, report.chosen
    rows = []
    for c, name in enumerate(chosen.targets):
        entry = {
            "name": name,
            "method": chosen.methods[c],
            "rho": chosen.manifest["spearman_with_length"][name],
            "pool": None,
            "selected": None,
            "low": None,
            "cut": None,
            "high": None,
            "gap": None,
        }
        if scores is not None:
            entry |= {
                "selected": scores.selected_mean[c],
                "low": scores.selected_low[c],
                "cut": target_cuts(report, scores)[c],
                "high": scores.selected_high[c],
            }
        if scores is not None and scores.whole:
            gap = (scores.selected_mean[c] - scores.mean[c]) / scores.deviation[c] if scores.deviation[c] > 0 else None
            entry |= {"pool": scores.mean[c], "gap": gap}
        rows.append(entry)
    return rows


def cuts_told(report: Report) -> str:
    """What the scores at the cuts of several targets say."""
    if report.scores is not None and any(cut is not None for cut in target_cuts(report, report.scores)):
        return "Cut: every row that scores higher for the target was selected, and lower ones for other targets only."
    return "No target has a cut of its own: rows were not selected by its score alone."


def label_table(labels: Labels) -> dict[str, Any]:
    """Rows of label, selected rows and share, pool's rows and share, and how many times the pool's share that is."""
    names = list(labels.selected) + [name for name in labels.pool or {} if name not in labels.selected]
    rows = []
    for name in names[:TABLE_ROWS]:
        chosen = labels.selected.get(name, 0)
        share = chosen / max(1, labels.selected_rows)
        entry = {"name": name, "selected": chosen, "share": share, "pool": None, "pool_share": None, "lift": None}
        if labels.pool is not None:
            pool_rows = labels.pool.get(name, 0)
            pool_share = pool_rows / max(1, labels.pool_rows)
            entry |= {"pool": pool_rows, "pool_share": pool_share, "lift": share / pool_share if pool_share else None}
        rows.append(entry)
    return {"rows": rows, "more": max(0, len(names) - TABLE_ROWS), "labels": labels}


def sample(report: Report, shown: ShownSample) -> dict[str, Any]:
    """One sample as the page tells it."""
    ranked, chosen, of_target = shown.ranked, report.chosen, report.of_targets.get(shown.target)
    scores = list(zip(chosen.targets, map(float, ranked.scores), strict=True))
    return {
        "ranked": ranked,
        "target": shown.target,
        "scores": scores,
        "turns": turns(shown.text) if shown.text else None,
        "label": shown.text.label if shown.text else None,
        "decided": shown.decided,
        "strip": None if shown.decided is None else strip(shown.decided),
        "id": None if ranked.id is None else formatting.short(ranked.id, 80),
        "cut": ranked.n_tokens == chosen.manifest.get("max_length") and chosen.manifest.get("rows_truncated"),
        "near": [] if of_target is None else [near_sample(of_target, one) for one in shown.near],
        "called": "" if of_target is None else of_target.called,
        "samples": 0 if of_target is None else of_target.samples,
    }


def near_sample(of_target: TargetSamples, near: NearSample) -> dict[str, Any]:
    """A target sample beside a row; it is numbered from 1."""
    text = of_target.texts.texts.get(near.number)
    said = None if text is None else turns(text)
    return {"number": near.number + 1, "similarity": near.similarity, "turns": said}


def strip(decided: Deciders) -> dict[str, str]:
    """Bars of a score's parts by layer, as paths: those that have its sign upwards, the others downwards."""
    parts = [part * (1 if decided.total >= 0 else -1) for _, part in decided.layers]
    high, low = max(0.0, *parts), max(0.0, *(-part for part in parts))
    unit, paths = STRIP_HEIGHT / (high + low or 1), {"up": "", "down": ""}
    zero = high * unit
    for at, part in enumerate(parts):
        tall = part * unit
        if round(tall, 1):
            paths["up" if part > 0 else "down"] += f"M{4 * at} {zero:.1f}v{-tall:.1f}h3v{tall:.1f}z"
    return {"box": f"0 0 {4 * len(parts) - 1} {STRIP_HEIGHT}", "text": strip_text(decided), **paths}


def strip_text(decided: Deciders) -> str:
    """The same in words: the largest parts, what thirds of the layers make, and how many neurons half of it takes."""
    shown = formatting.signed if decided.centred else lambda part: formatting.number(part, 2)
    largest = [f"{layer} ({shown(part)})" for layer, part in decided.most(MOST_LAYERS)]
    text = f"Most in layers {formatting.listed(largest)}" if largest else "No layer has its sign"
    count, total = len(decided.layers), decided.total
    if count >= 3 * MOST_LAYERS and total:
        edges = [0, round(count / 3), round(2 * count / 3), count]
        thirds = [sum(part for _, part in decided.layers[a:b]) / total for a, b in pairwise(edges)]
        text += f"; the first third of the layers makes {formatting.percent(thirds[0])}, "
        text += f"the second {formatting.percent(thirds[1])}, the last {formatting.percent(thirds[2])}"
    if decided.half:
        text += f". Half of it takes {decided.half:,} neuron{'s' * (decided.half > 1)}"
    return text + "."


def explained(report: Report) -> Iterator[str]:
    """What the numbers beside the rows mean, and what is not told of them."""
    shown = [*report.best, *report.worst, *report.inside, *report.outside]
    deciders = [s.decided for s in shown if s.decided is not None]
    upwards = "bars upwards have its sign"
    if any(d.centred for d in deciders):
        yield f"By layer: what a layer adds to the score, less what it adds to the pool's rows on average; {upwards}."
    elif deciders:
        yield f"By layer: what a layer adds to the likeness, by which rows score here; {upwards}."
    if any(d.half is not None for d in deciders):
        share = f"the {MOST_NEURONS} that most tell it from the rows beside it"
        least = formatting.percent(TELLING_SHARE)
        if any(d.neurons for d in deciders):
            yield f"Neurons are named where {share} make {least} of all that does. A bit is on where one is active."
        else:
            yield f"No neurons are named: of each row here, {share} make less than {least} of all that does."
    if shown and report.chosen.index is not None:
        tokens = {"response": "the response's tokens", "prompt": "the prompt's tokens"}
        read = tokens.get(str(report.chosen.manifest.get("reading_tokens")), "all tokens")
        yield (
            f"Which words of a row made its score an index does not tell: it keeps a row as a whole, over {read} that "
            "were read. Two indexes, of --tokens prompt and --tokens response, rank by the one or the other."
        )
    typical: dict[str, list[str]] = {}
    for name, of in report.of_targets.items():
        typical.setdefault(of.called, []).append(f"{formatting.fixed(of.typical)} ({formatting.short(name, 40)})")
    for called, each in typical.items():
        yield (
            f"Most like it: the target's samples next to a row by {called} of what the index keeps of both. Half of "
            f"the pool's rows have at most {formatting.listed(each)} with the sample next to them."
        )
    yield from (of.texts.untold for of in report.of_targets.values() if of.texts.untold)
    yield from samples_untold(report)


def samples_untold(report: Report) -> Iterator[str]:
    """Of which targets it is not known what sample a row is like, and why."""
    for names, why in _without_samples(report, set(report.of_targets)):
        yield f"Which samples of {names} a row is most like is not told: {why}."


def _without_samples(report: Report, own: Set[str]) -> Iterator[tuple[str, str]]:
    """(targets that are not among ``own``, why nothing is known of their samples)."""
    made = {signature.name: signature.method for signature in report.chosen.signatures}
    missing = [name for name in report.chosen.targets if name not in own]
    for keeps in (True, False):
        mine = [name for name in missing if name in made and keeps == (method_of(made[name]).sample is not None)]
        if named := [formatting.short(name, 40) for name in mine]:
            yield formatting.listed(named), KEPT if keeps else "their method keeps no samples"
    if named := [formatting.short(name, 40) for name in missing if name not in made]:
        yield formatting.listed(named), "there is no signature at hand"


def turns(text: Text) -> list[dict[str, Any]]:
    """Role, what is shown at once, what unfolds, and how many characters are left out."""
    shown = []
    for role, said in text.turns[:MOST_TURNS]:
        first, rest = formatting.split(formatting.clean(said), SHOWN_CHARACTERS)
        unfolded = rest[: KEPT_CHARACTERS - len(first)]
        shown.append({"role": role, "first": first, "rest": unfolded, "left": len(rest) - len(unfolded)})
    if (left := len(text.turns) - MOST_TURNS) > 0:
        shown.append({"role": formatting.count(left, "more turn"), "first": "", "rest": "", "left": 0})
    return shown


def lengths_untold(report: Report) -> Iterator[str]:
    """Of which targets it is not known how long their samples are, and why."""
    for names, why in _without_samples(report, target_lengths(report.chosen).keys()):
        yield f"How long the samples of {names} are is not told: {why}."


def near_table(near: NearRows | None, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows of name and value, and what these mean in words."""
    if near is None:
        return None
    share, selected = formatting.percent(near.near / near.compared), manifest["rows_selected"]
    explained = (
        f"A near-duplicate is a selected row whose code differs from that of another selected row in less than "
        f"{formatting.percent(NEAR_SHARE)} of its bits: in at most {near.most_bits:,} of {near.bits:,}."
    )
    if near.drawn:
        explained += (
            f" {near.compared:,} of the {selected:,} selected rows, drawn at random (seed {SEED}), were compared with "
            "one another; others that they are like may be among those that were not."
        )
    rows = [("near-duplicates", share), ("that is", f"{near.near:,} of {near.compared:,} rows")]
    return {"table": rows, "explained": explained}


def ranked_by(evaluation: Evaluation | None) -> str:
    """The rules that signatures were ranked by, the ones of most first; nothing where the file does not tell."""
    rules = [] if evaluation is None else list(evaluation.ranked_by.values())
    return formatting.listed(sorted(set(rules), key=lambda rule: (-rules.count(rule), rule)))


def examples(evaluation: Evaluation | None) -> Iterator[dict[str, Any]]:
    """Samples that several targets share, and those that one alone selects."""
    if evaluation is None:
        return
    for core in evaluation.cores:
        said = (
            f"In at least {formatting.count(core['at_least'], 'selection')}{core['method'] and ' by ' + core['method']}"
        )
        if core["by_chance"] is not None:
            said += f", by chance {formatting.number(core['by_chance'], 2)}"
        yield {"title": said, **core}
    for name, entry in evaluation.unique.items():
        yield {"title": f"Only in the selection for {name}", **entry}
