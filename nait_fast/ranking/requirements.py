"""What a ranking asks of signatures and methods, checked before anything is scanned: rule, length, exports, quality."""

from collections.abc import Sequence

from nait_fast.config import BudgetOptions, ConstraintOptions, SelectOptions
from nait_fast.errors import BadInput
from nait_fast.methods import method_of
from nait_fast.methods.base import Method
from nait_fast.methods.signature import LENGTHS, Signature, require_samples
from nait_fast.ranking.similarity_files import check_similarities, of_similarities


def rule_of(signatures: Sequence[Signature], asked: str | None) -> str:
    """The rule that they are ranked by: as asked, or that of their methods. Raises NaitError where it cannot be."""
    rules = {method_of(signature.method).rules[0] for signature in signatures}
    if asked is None and len(rules) > 1:
        methods = " and ".join(sorted({signature.method for signature in signatures}))
        raise BadInput(f"methods {methods} have rules of their own", where="--signature", remedy="give --rule")
    rule = asked or rules.pop()
    for signature in signatures:
        method = method_of(signature.method)
        if rule not in method.rules:
            _refuse_method(method, f"--rule {rule}")
        if rule != "centroid":
            require_samples(signature, f"--rule {rule}")
    return rule


def check_asked(
    signatures: Sequence[Signature], options: BudgetOptions, constraining: ConstraintOptions | None = None
) -> str:
    """The rule that the signatures are ranked by. Raises NaitError where they lack what is asked of them, or what is
    asked does not go together."""
    rule = rule_of(signatures, options.rule)
    check_turns(rule, options)
    check_similarities(options.export, signatures)
    if constraining is not None:
        check_mixing(constraining, options, rule)
        for signature in signatures:
            if constraining.length == "matched" and not method_of(signature.method).has_background:
                _refuse_background(method_of(signature.method), f" ('{signature.name}')")
            if constraining.length == "matched":
                require_samples(signature, "--length matched")
        if constraining.length == "quota:target":
            check_lengths(signatures)
    return rule


def check_lengths(signatures: Sequence[Signature]) -> None:
    """Raises NaitError where one does not tell how long its target's samples are."""
    if other := next((s for s in signatures if LENGTHS not in s.tensors), None):
        kept = method_of(other.method).sample is not None
        raise BadInput(
            f"signature '{other.name}' does not tell how long its target's samples are",
            where="--length quota:target",
            remedy="make it again with --keep-samples" if kept else "use another method, or --length quota",
        )


def check_before(options: SelectOptions, method: Method) -> bool:
    """Whether signatures of ``method``, still to be made, must keep their samples. Raises NaitError as ``check_asked``,
    for what is known without them."""
    rule = options.rule or method.rules[0]
    check_turns(rule, options)
    check_mixing(options, options, rule)
    if options.length == "matched" and not method.has_background:
        _refuse_background(method)
    asking = [f"--export {export}" for export in of_similarities(options.export)]
    asking += [f"--rule {options.rule}"] * (options.rule not in (None, "centroid"))
    asking += [f"--length {options.length}"] * (options.length in ("matched", "quota:target"))
    if asking and method.sample is None:
        _refuse_method(method, asking[0])
    return bool(asking) or rule != "centroid"


def check_turns(rule: str, options: BudgetOptions) -> None:
    """Raises NaitError for what has no meaning by ``rule``."""
    remedy = "leave it out, or use --rule max"
    if rule == "roundrobin" and options.pick != "top":
        why = "by rule roundrobin samples take their best rows, in turns"
        raise BadInput(why, where=f"--pick {options.pick}", remedy=remedy)
    if rule == "roundrobin" and options.combine != "roundrobin":
        raise BadInput("by rule roundrobin targets take turns", where=f"--combine {options.combine}", remedy=remedy)


def check_mixing(constraining: ConstraintOptions, options: BudgetOptions, rule: str | None) -> None:
    """Raises NaitError where there is nothing that quality could be mixed into."""
    where = f"--quality {constraining.quality}"
    if constraining.quality is not None and options.pick == "random":
        raise BadInput("rows drawn at random have no scores to mix it into", where=where, remedy="leave it out")
    if constraining.quality is not None and rule == "roundrobin":
        why = "by rule roundrobin each target sample has scores of its own, which it is not mixed into"
        raise BadInput(why, where=where, remedy="choose --rule max or centroid")


def _refuse_method(method: Method, where: str) -> None:
    what = f"method {method.name} does not compare rows with single samples"
    raise BadInput(what, where=where, remedy="leave it out, or use another method")


def _refuse_background(method: Method, whose: str = "") -> None:
    what = f"method {method.name} holds no target against the pool{whose}"
    raise BadInput(what, where="--length matched", remedy="use method contrast, or --length quota")
