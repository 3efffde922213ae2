"""The compile gate: every launch compiles well for every target, the table holds, and the gate can fail."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.compile_cases import HARDWARE, Case
from benchmarks.compile_gate import TARGETS, differences, digests, faults, read_amdgcn, read_sass, table_path

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def outside():
    """Runs Python in a process whose Triton compiles (this process may have chosen the interpreter)."""
    spec = find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Triton is not installed")
    tools = Path(spec.submodule_search_locations[0]) / "backends" / "nvidia" / "bin"
    if not all((tools / name).exists() for name in ("ptxas", "nvdisasm", "cuobjdump")):
        pytest.skip("this Triton has no NVIDIA tools")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "NAIT_FAST_BACKEND")} | variables
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_every_kernel_compiles_well(outside):
    """Where a table is of these very sources and this Triton, all was judged when it was made: a case of each kernel is
    compiled once more. Else all cases, for all targets."""
    kept, some = list[dict](), list[str]()
    if table_path().exists():
        text = table_path().read_text(encoding="utf-8")
        written = table_path().with_suffix(".sha256").read_text(encoding="utf-8")
        assert written == digests(text), "kernels or table have changed: run python -m benchmarks.compile_gate --write"
        kept, some = [json.loads(line) for line in text.splitlines()], ["--target", "sm_90", "--one-of-each"]
    done = outside("-m", "benchmarks.compile_gate", "--check", *some)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in ROOT.glob("kernels/*/kernel.py"):
        for kernel in re.findall(r"^def (\w+_kernel)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            name = f"{path.parent.name}.{kernel}"
            seen = set(re.findall(rf"\| {name} \| .*? \| (\w+) \|", done.stdout))
            assert seen == ({"sm_90"} if some else set(HARDWARE.get(kernel, TARGETS))), kernel
            targets = set(HARDWARE.get(kernel, TARGETS))
            assert not some or {row["target"] for row in kept if row["kernel"] == name} == targets, kernel


@pytest.mark.slow
def test_the_gate_fails_on_what_does_not_hold(outside):
    done = outside(
        "-c",
        """if True:
        import dataclasses
        from benchmarks.compile_gate import cases, gate
        case = next(c for c in cases() if c.kernel == "popcount.count_kernel")
        wrong = dataclasses.replace(case, name="wrong", words=tuple(2 * words for words in case.words))
        broken = dataclasses.replace(case, name="broken", constants=case.constants | {"BLOCK_W": 100})
        if __name__ == "__main__":
            raise SystemExit(gate([wrong, broken], ["sm_90"], whole=False))
    """,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "popcount.count_kernel / wrong / sm_90: 64 popc, 128 expected" in done.stdout
    assert re.search(r"count_kernel / broken / sm_90: does not compile: .*power of 2", done.stdout), done.stdout


def test_the_gate_refuses_the_interpreter(outside):
    done = outside("-m", "benchmarks.compile_gate", TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET is set" in done.stderr


CASE = Case(
    "op.kernel", "name", {}, {}, {}, {"num_warps": 4}, words=(1536, 2048), macs=4 * 16 * 8 * 32, tile=4096, loads=2
)
GOOD = {
    "target": "sm_90",
    "registers": 40,
    "spills": 0,
    "stack": 0,
    "trap": 0,
    "popc": 16,
    "swar": 0,
    "mma": 1,
    "products": 16 * 8 * 32,
    "loads128": 4,
    "loads_narrow": 0,
    "shared": 4096,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"popc": 12}, None),
        ({"loads128": 6}, None),
        ({"products": 2 * 16 * 8 * 32}, None),  # a pipelined loop with an iteration peeled off
        ({"shared": 300_000}, "300,000 bytes of shared memory, at most 232,448 fit"),
        ({"products": 0}, None),  # an instruction whose name does not tell its shape
        ({"trap": 1}, "1 trap, 0 expected"),
        ({"spills": 3}, "3 spills, 0 expected"),
        ({"stack": 8}, "8 stack, 0 expected"),
        ({"popc": 0}, "0 popc, 12 to 16 expected"),
        ({"popc": 17}, "17 popc, 12 to 16 expected"),
        ({"swar": 1}, "a popcount by shifts and additions is left"),
        ({"mma": 0, "products": 0}, "0 matrix instructions with 0 products a warp, 4096 expected"),
        ({"products": 2048}, "1 matrix instructions with 2048 products a warp, 4096 expected"),
        ({"loads128": 2, "loads_narrow": 32}, "2 loads of 128 bits, at least 4 expected (32 narrow ones)"),
        ({"error": "TypeError: x"}, "does not compile: TypeError: x"),
    ],
)
def test_faults(change, message):
    assert faults(CASE, GOOD | change) == ([message] if message else [])


def test_faults_where_nothing_is_demanded():
    plain = replace(CASE, words=(0, 0), macs=0, tile=0)
    assert faults(plain, GOOD | {"popc": 0, "swar": 1, "mma": 0, "products": 0, "loads128": 0}) == []


def test_differences():
    row = {"kernel": "k", "case": "c", "target": "sm_90", "registers": 40}
    assert differences([row], [row], whole=True) == []
    assert differences([row | {"registers": 41}], [row], whole=True) == ["k / c / sm_90: registers 40 -> 41"]
    assert differences([row], [], whole=False) == ["k / c / sm_90: not in the table"]
    assert differences([], [row], whole=False) == []
    assert differences([], [row], whole=True) == ["k / c / sm_90: in the table but no case any more"]


def test_read_sass():
    sass = """
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/              @!P0 LDG.E R4, desc[UR4][R2.64] ;
        /*0020*/              @!PT LDGSTS.E.BYPASS.128 [R4], desc[UR4][R2.64] ;
        /*0030*/                   POPC R4, R4 ;
        /*0040*/               @P0 STL.64 [R1], R4 ;
        /*0050*/                   IGMMA.64x16x32.S8.S8 R24, R24, gdesc[UR4], R24 ;
        /*0060*/                   IMMA.16832.S8.S8.SAT R4, R4.ROW, R8.COL, R4 ;
        /*0070*/                   BPT.TRAP 0x1 ;
        /*0080*/                   LOP3.LUT R4, R4, 0x55555555, RZ, 0xc0, !PT ;
    """
    usage = " Function k:\n  REG:168 STACK:16 SHARED:0 LOCAL:8 CONSTANT[0]:588 TEXTURE:0 SURFACE:0 SAMPLER:0"
    assert read_sass(sass, usage, 2048) == {
        "registers": 168,
        "spills": 1,
        "stack": 24,
        "shared": 2048,
        "popc": 1,
        "mma": 2,
        "mma_kind": "IGMMA.64x16x32.S8.S8 IMMA.16832.S8.S8.SAT",
        "products": 64 * 16 * 32 // 4 + 16 * 8 * 32,
        "loads128": 2,
        "loads_narrow": 1,
        "trap": 1,
        "swar": 1,
    }


def test_read_amdgcn():
    text = """
\tbuffer_load_dwordx4 v[2:5], v1, s[8:11], 0 offen
\tglobal_load_dwordx2 v[2:3], v1, s[8:9]
\tv_bcnt_u32_b32 v1, v2, v3
\tv_mfma_i32_32x32x16_i8 v[0:15], v[2:3], v[4:5], v[0:15]
    .private_segment_fixed_size: 16
    .sgpr_spill_count: 2
    .vgpr_count:     60
    .vgpr_spill_count: 3
"""
    assert read_amdgcn(text, 1024) == {
        "registers": 60,
        "spills": 5,
        "stack": 16,
        "shared": 1024,
        "popc": 1,
        "mma": 1,
        "mma_kind": "v_mfma_i32_32x32x16_i8",
        "products": 32 * 32 * 16,
        "loads128": 1,
        "loads_narrow": 1,
        "trap": 0,
        "swar": 0,
    }
