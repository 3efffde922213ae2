"""Compiles every kernel as the launchers launch it, on a machine without a GPU, and judges the machine code.

    python -m benchmarks.compile_gate [--write | --check] [--target sm_90] [--only NAME] [--one-of-each]

Demanded of each case of compile_cases.py on each target: no trap, no spill, no stack; one POPC (v_bcnt) for each word
counted; all its products on matrix units; its tile in 128-bit loads where everything is aligned. ``--write`` keeps the
table for this version of Triton in benchmarks/results/compile/, with digests of the sources that it was made of and of
itself; ``--check`` compares with that table. Exit status 1: something does not hold.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.compile_cases import Case, cases
from benchmarks.record import RESULTS, table

TARGETS: dict[str, tuple[str, int | str, int]] = {  # backend, architecture, threads of a warp
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
COLUMNS = [
    "kernel",
    "case",
    "target",
    "registers",
    "spills",
    "stack",
    "shared",
    "popc",
    "mma",
    "mma_kind",
    "loads128",
    "loads_narrow",
]
SASS = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", re.MULTILINE)
# What ptxas adds to matrix instructions of sm_100, a function of one trap each: misuse of their memory ends in it.
GUARDRAIL = re.compile(r"^\S*_tcgen05_guardrail_trap_\w+:", re.MULTILINE)
AMDGCN = re.compile(r"^\s+([a-z]+_[a-z0-9_]+)", re.MULTILINE)
# Bytes of shared memory that a program may have; sm_80 stands for sm_86 and sm_89 too, which have the least.
SHARED = {"sm_80": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
Row = dict[str, Any]


def _count(opcodes: Counter[str], pattern: str) -> int:
    return sum(n for name, n in opcodes.items() if re.match(pattern, name))


def _mma(opcodes: Counter[str], pattern: str) -> Row:
    """Matrix instructions, their names, and the products that a warp has of them (0: a name does not tell)."""
    kinds = {name: n for name, n in sorted(opcodes.items()) if re.match(pattern, name)}
    products = 0
    for name, n in kinds.items():  # v_mfma_i32_16x16x32_i8, IMMA.16832.S8.S8, and IGMMA.64x16x32 of four warps together
        shape = re.search(r"(\d+)x(\d+)x(\d+)", name) or re.search(r"\.(16)(8)(\d\d)\b", name)
        products += n * prod(map(int, shape.groups())) // (4 if "GMMA" in name else 1) if shape else 0
    return {"mma": sum(kinds.values()), "mma_kind": " ".join(kinds), "products": products}


def read_sass(sass: str, usage: str, shared: int) -> Row:
    """Counts from ``nvdisasm -c`` and ``cuobjdump --dump-resource-usage``."""
    opcodes = Counter(SASS.findall(sass))
    resources = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    loads, wide = _count(opcodes, r"LDG"), r"LDG(STS)?\b.*\.(128|256)\b"
    return {
        "registers": resources["REG"],
        "spills": _count(opcodes, r"(LDL|STL)\b"),
        "stack": resources["STACK"] + resources["LOCAL"],
        "shared": shared,
        "popc": _count(opcodes, r"U?POPC"),
        **_mma(opcodes, r"([A-Z]G?MMA|UTC\w*MMA)\b"),
        "loads128": _count(opcodes, wide),
        "loads_narrow": loads - _count(opcodes, wide),
        "trap": _count(opcodes, r"BPT\.TRAP") - len(GUARDRAIL.findall(sass)),
        "swar": len(re.findall(r"0x55555555", sass)),
    }


def read_amdgcn(text: str, shared: int) -> Row:
    """Counts from AMD assembly and the metadata at its end."""
    opcodes = Counter(AMDGCN.findall(text))
    last = {name: int(value) for name, value in re.findall(r"\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    loads, wide = _count(opcodes, r"(global|buffer|flat)_load_"), r"(global|buffer|flat)_load_dwordx4"
    return {
        "registers": last["vgpr_count"],
        "spills": last["vgpr_spill_count"] + last["sgpr_spill_count"],
        "stack": last["private_segment_fixed_size"],
        "shared": shared,
        "popc": _count(opcodes, r"v_bcnt_"),
        **_mma(opcodes, r"v_mfma_"),
        "loads128": _count(opcodes, wide),
        "loads_narrow": loads - _count(opcodes, wide),
        "trap": _count(opcodes, r"s_trap"),
        "swar": len(re.findall(r"0x55555555", text)),
    }


def _tool(name: str, arguments: list[str]) -> str:
    from triton import knobs

    return subprocess.run(
        [getattr(knobs.nvidia, name).path, *arguments], check=True, capture_output=True, text=True
    ).stdout


def compiled(case: Case, target: str) -> Row:
    """The row of one case on one target; ``error`` alone where it does not compile."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    op, function = case.kernel.split(".")
    kernel = getattr(import_module(f"nait_fast.kernels.{op}.kernel"), function)
    source = ASTSource(kernel, case.signature, case.constants, case.attrs)
    key = {"kernel": case.kernel, "case": case.name, "target": target}
    try:
        result = triton.compile(source, GPUTarget(*TARGETS[target]), case.options)
    except Exception as caught:
        error: BaseException = caught
        while error.__cause__ is not None:
            error = error.__cause__
        lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines()]
        return {**key, "error": "; ".join(line for line in lines if "rror" in line)}
    if "amdgcn" in result.asm:
        return key | read_amdgcn(result.asm["amdgcn"], result.metadata.shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        sass, usage = (_tool("nvdisasm", ["-c", file.name]), _tool("cuobjdump", ["--dump-resource-usage", file.name]))
    return key | read_sass(sass, usage, result.metadata.shared)


def faults(case: Case, row: Row) -> list[str]:
    """What of the case's expectations ``row`` breaks, a line each."""
    if "error" in row:
        return [f"does not compile: {row['error']}"]
    threads = case.num_warps * TARGETS[row["target"]][2]
    out = [f"{row[name]} {name}, 0 expected" for name in ("trap", "spills", "stack") if row[name]]
    fewest, most = (words // threads for words in case.words)
    if not fewest <= row["popc"] <= most and most:
        out.append(f"{row['popc']} popc, {fewest if fewest == most else f'{fewest} to {most}'} expected")
    if row["swar"] and most:
        out.append("a popcount by shifts and additions is left")
    products = case.macs // case.num_warps
    if products and (not row["mma"] or row["products"] % products):  # a pipelined loop may have an iteration peeled off
        out.append(f"{row['mma']} matrix instructions with {row['products']} products a warp, {products} expected")
    if row["shared"] > (most_shared := SHARED[row["target"]]):
        out.append(f"{row['shared']:,} bytes of shared memory, at most {most_shared:,} fit")
    loads = case.loads * (case.tile // threads // 16)
    if row["loads128"] < loads:
        out.append(
            f"{row['loads128']} loads of 128 bits, at least {loads} expected ({row['loads_narrow']} narrow ones)"
        )
    return out


def differences(rows: list[Row], table_rows: list[Row], whole: bool) -> list[str]:
    """How ``rows`` differ from the ``kept`` ones, a line each; ``whole``: none of those may be missing."""

    def by_key(rows: list[Row]) -> dict[str, Row]:
        return {f"{row['kernel']} / {row['case']} / {row['target']}": row for row in rows}

    before, now = by_key(table_rows), by_key(rows)
    out = [f"{key}: in the table but no case any more" for key in before if whole and key not in now]
    for key, row in now.items():
        old = before.get(key)
        if old is None:
            out.append(f"{key}: not in the table")
        elif changed := [name for name in old | row if old.get(name) != row.get(name)]:
            out.append(f"{key}: " + ", ".join(f"{name} {old.get(name)} -> {row.get(name)}" for name in changed))
    return out


def measure(work: list[tuple[Case, str]], workers: int) -> list[Row]:
    """Compile ``work`` in processes of their own and in a cache of their own; rows in the order of ``work``."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            return list(pool.map(compiled, *zip(*work, strict=True)))


def table_path() -> Path:
    """That of this version of Triton; beside it, with the suffix .sha256, ``digests`` of the sources and of it."""
    import triton

    return RESULTS / "compile" / f"triton-{triton.__version__}.jsonl"


def digests(table_text: str) -> str:
    """SHA-256, a line each, of what decides the table (the kernels, what launches them, this gate) and of its text."""
    root = Path(__file__).parents[1]
    files = [*sorted(root.glob("kernels/*/*.py")), root / "benchmarks/compile_cases.py", Path(__file__)]
    read = b"".join(file.read_bytes() for file in files), table_text.encode()
    return "".join(hashlib.sha256(part).hexdigest() + "\n" for part in read)


def gate(chosen: list[Case], targets: list[str], write: bool = False, check: bool = False, whole: bool = True) -> int:
    """Compile ``chosen`` (``whole``: all there is), print the table and what does not hold; returns the exit status."""
    import triton

    order = list(TARGETS)
    work = [(case, target) for case in chosen for target in targets if target.startswith(case.targets)]
    work.sort(key=lambda item: (item[0].kernel, item[0].name, order.index(item[1])))
    rows = measure(work, workers=min(len(work), os.cpu_count() or 1))
    failed = []
    for (case, target), row in zip(work, rows, strict=True):
        failed += [f"{case.kernel} / {case.name} / {target}: {line}" for line in faults(case, row)]
    rows = [{name: row[name] for name in (*COLUMNS, "error") if name in row} for row in rows]
    print(table(rows, COLUMNS))
    path = table_path()
    if write and not failed:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".sha256").write_text(digests(text), encoding="utf-8")
    elif check and path.exists():
        table_rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        failed += differences(rows, [row for row in table_rows if row["target"] in targets], whole)
    elif check:
        print(f"\nno table for Triton {triton.__version__} to compare with: expectations only")
    print(f"\n{len(rows)} compiled with Triton {triton.__version__}, {len(failed)} faults")
    for line in failed:
        print(line)
    return int(bool(failed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="keep the table, if every expectation holds")
    mode.add_argument("--check", action="store_true", help="compare with the table kept for this version of Triton")
    parser.add_argument("--target", choices=list(TARGETS))
    parser.add_argument("--only", help="cases whose kernel or name contains this")
    parser.add_argument("--one-of-each", action="store_true", help="the first case of each kernel alone")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET is set: under the interpreter nothing is compiled; unset it")
    if arguments.write and (arguments.target or arguments.only or arguments.one_of_each):
        parser.error("--write keeps the whole table: not with --target, --only or --one-of-each")
    chosen = [c for c in cases() if (arguments.only or "") in f"{c.kernel} {c.name}"]
    if not chosen:
        parser.error(f"no case contains {arguments.only!r}")
    if arguments.one_of_each:
        chosen = list({case.kernel: case for case in reversed(chosen)}.values())
    targets = [arguments.target] if arguments.target else list(TARGETS)
    return gate(chosen, targets, arguments.write, arguments.check, not (arguments.only or arguments.one_of_each))


if __name__ == "__main__":
    sys.exit(main())
