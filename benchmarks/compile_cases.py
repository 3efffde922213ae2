"""The launches that the compile gate compiles, each with what its machine code must hold.

They are recorded from the launchers themselves: an op runs on small CPU tensors while Triton's launch only takes down
its arguments. So tiles, warps, constants and alignment are what a GPU would get, and none is repeated here.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

WIDTH, ODD_WIDTH = 14336, 11011  # neurons of a layer
CODE_BYTES, ODD_CODE_BYTES = 57344, 55080  # of a row of codes: a multiple of 8, of 16 on the aligned path
TOPK_WIDTHS = (1536, 8960, 14336, 24576)
ROWS = 2
TYPES = {
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
    "torch.float32": "fp32",
    "torch.int8": "i8",
    "torch.int32": "i32",
    "torch.int64": "i64",
    "torch.uint8": "u8",
    "torch.uint32": "u32",
}
HARDWARE = {"quantise_kernel": ("sm_90", "sm_100")}  # that has the types which a kernel converts to


@dataclass(frozen=True)
class Case:
    """One launch of ``kernel`` ('op.function') as Triton's JIT specialises it, and its expectations.

    ``constants``: constexprs, and run-time integers that are 1; ``attrs``: by argument index. An iteration of the
    program's loop counts the bits of ``words`` (fewest, most) 32-bit words, takes ``macs`` products on matrix units and
    loads ``loads`` tiles of ``tile`` bytes, 128 bits at a time (0: nothing demanded). ``targets``: their prefixes;
    ``options``: num_warps and the like.
    """

    kernel: str
    name: str
    signature: dict[str, str]
    constants: dict[str, Any]
    attrs: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, int]
    words: tuple[int, int] = (0, 0)
    macs: int = 0
    tile: int = 0
    loads: int = 1
    targets: tuple[str, ...] = ("",)

    @property
    def num_warps(self) -> int:
        return self.options["num_warps"]


@contextmanager
def _recorded(hip: bool) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Launches inside the block, as (kernel, keyword arguments), with every op on Triton for CUDA or for AMD."""
    import torch
    from triton.runtime.jit import JITFunction

    launches: list[tuple[Any, dict[str, Any]]] = []

    def run(self, *args, grid, warmup, **kwargs):
        launches.append((self, dict(zip(self.arg_names, args, strict=False)) | kwargs))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(torch.version, "hip", "any" if hip else None),
        mock.patch.dict(os.environ, NAIT_FAST_BACKEND="triton"),
    ):
        yield launches


def _case(kernel: Any, values: dict[str, Any], hip: bool, **about: Any) -> Case:
    """The case of one launch: Triton's JIT compiles for the value 1 and for multiples of 16, on AMD also for tensors
    below 2 GiB (buffer loads)."""
    import torch

    signature, constants, attrs = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        name, value = parameter.name, values.pop(parameter.name)
        varies = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and not varies):
            signature[name], constants[name] = "constexpr", value
            continue
        tensor = isinstance(value, torch.Tensor)
        if isinstance(value, float):
            signature[name] = "fp32"
            continue
        signature[name] = f"*{TYPES[str(value.dtype)]}" if tensor else "i32"
        if (value.data_ptr() if tensor else value) % 16 == 0 and not varies:
            attrs[(i,)] = [["tt.divisibility", 16]]
        if tensor and hip:
            attrs[(i,)] = [*attrs.get((i,), []), ["tt.pointer_range", 32]]
    if not {"num_warps"} <= values.keys() <= {"num_warps", "num_stages", "enable_fp_fusion"}:
        raise ValueError(f"{kernel.__name__}: unknown options {sorted(values)}")
    op = kernel.__module__.split(".")[-2]
    return Case(f"{op}.{kernel.__name__}", about.pop("name"), signature, constants, attrs, values, **about)


Run = Callable[[], object]


def _capture_runs() -> Iterator[tuple[str, str, bool, Run]]:
    """(kernel, name, aligned, run): the last launch of that kernel in a run counts."""
    import torch

    from nait_fast.kernels.capture.launch import CHUNK, mlp_capture
    from nait_fast.kernels.capture.types import BitSpec, Segments

    readings = frozenset({"first", "last", "sum"})
    n = CHUNK + 1  # of two chunks: a second pass joins them

    def run(act, dtype=torch.bfloat16, statistics=readings, gated=True, bits="", width=WIDTH, weighted=False) -> Run:
        up = torch.zeros(n, width, dtype=dtype)
        weights = torch.zeros(n) if weighted else None
        segments = Segments(torch.tensor([0]), torch.tensor([n]), torch.tensor([True]), weights=weights)
        row = torch.zeros(width)
        spec = BitSpec(row, row if bits == "prefix" else None) if bits else None
        return lambda: mlp_capture(up if gated else None, up, act, segments, statistics, spec)

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield "capture_kernel", f"gated silu {dtype}".replace("torch.", ""), True, run("silu", dtype)
    yield "capture_kernel", "gated silu, up", True, run("silu", statistics=frozenset({"up_abs_sum"}))
    yield "capture_kernel", "gated silu, all", True, run("silu", statistics=readings | {"up_abs_sum"})
    yield "capture_kernel", "gated silu, none", True, run("silu", statistics=frozenset())
    yield "capture_kernel", "gated silu, bits", True, run("silu", statistics=frozenset(), bits="own")
    yield "capture_kernel", "gated silu, bits after a prefix", True, run("silu", statistics=frozenset(), bits="prefix")
    yield "capture_kernel", "gated silu, weighted", True, run("silu", weighted=True)
    yield (
        "capture_kernel",
        "gated silu, all, weighted",
        True,
        run("silu", statistics=readings | {"up_abs_sum"}, weighted=True),
    )
    yield (
        "capture_kernel",
        "gated silu, bits, weighted",
        True,
        run("silu", statistics=frozenset(), bits="own", weighted=True),
    )
    yield "capture_kernel", "gated silu, odd width", False, run("silu", bits="own", width=ODD_WIDTH)
    for act in ("gelu", "gelu_tanh"):
        yield "capture_kernel", f"gated {act}", True, run(act)
    for act in ("gelu", "gelu_new", "relu", "relu2"):
        yield "capture_kernel", f"plain {act}", True, run(act, gated=False)
    yield "capture_kernel", "plain gelu_new float32", True, run("gelu_new", torch.float32, gated=False)
    yield "capture_kernel", "pool of hidden", True, run(torch.sin)
    yield "capture_kernel", "pool of hidden, weighted", True, run(torch.sin, weighted=True)
    yield "capture_kernel", "pool of up", True, run(torch.sin, statistics=frozenset({"up_abs_sum"}))
    yield "join_kernel", "sums", True, run("silu")
    yield "join_kernel", "sums and bits", True, run("silu", bits="own")
    yield "join_kernel", "sums and bits after a prefix", True, run("silu", bits="prefix")
    yield "join_kernel", "odd width", False, run("silu", bits="own", width=ODD_WIDTH)


def _bitpack_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.bitpack.launch import pack_bits, topk_bits

    def pack(width: int, dtype: torch.dtype = torch.float32) -> Run:
        return lambda: pack_bits(torch.zeros(ROWS, width, dtype=dtype), torch.zeros(width))

    def topk(width: int) -> Run:
        return lambda: topk_bits(torch.zeros(ROWS, width), 20)

    yield "pack_kernel", "float32", True, pack(WIDTH)
    yield "pack_kernel", "odd width", False, pack(ODD_WIDTH)
    for width in TOPK_WIDTHS:
        yield "topk_kernel", f"width {width}", True, topk(width)
    yield "topk_kernel", f"width {ODD_WIDTH}", False, topk(ODD_WIDTH)


def _popcount_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import numpy as np
    import torch

    from nait_fast.kernels.popcount.device import PLANE_GROUP, DeviceScan, scaled_scores

    def run(method: str, n_planes: int, width: int = CODE_BYTES) -> Run:
        planes, weights = np.ones((n_planes, width), dtype=np.uint8), np.ones(n_planes, dtype=np.int64)
        scan = DeviceScan(planes, weights, np.arange(n_planes), n_planes, torch.device("cpu"), method)
        return lambda: scan(torch.zeros(ROWS, width, dtype=torch.uint8))

    def scaled(n_planes: int, width: int = WIDTH, n_layers: int = 32) -> Run:
        codes, planes = (torch.zeros(n, n_layers * width // 8, dtype=torch.uint8) for n in (ROWS, n_planes))
        scales = torch.zeros(ROWS, n_layers, dtype=torch.float16)
        return lambda: scaled_scores(codes, planes, torch.zeros(n_planes, n_layers), scales, width // 8)

    n_planes = 1
    while n_planes <= PLANE_GROUP:
        yield "count_kernel", f"planes {n_planes}", True, run("count", n_planes)
        yield "scaled_kernel", f"planes {n_planes}", True, scaled(n_planes)
        n_planes *= 2
    yield "scaled_kernel", "planes 3, width 1536", True, scaled(3, 1536)
    yield "count_kernel", "planes 3, odd bytes", False, run("count", 3, ODD_CODE_BYTES)
    for n_columns in (1, 5, 32, 128):
        yield "dot_kernel", f"columns {n_columns}", True, run("dot", n_columns)
    yield "dot_kernel", "columns 5, odd bytes", False, run("dot", 5, ODD_CODE_BYTES)


def _rotate_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.rotate import ROUNDS, rotated_width
    from nait_fast.kernels.rotate.launch import rotate_bits

    def run(width: int, dtype: torch.dtype = torch.float32) -> Run:
        order, signs = (torch.zeros(ROUNDS, rotated_width(width), dtype=t) for t in (torch.int32, torch.float32))
        return lambda: rotate_bits(torch.zeros(ROWS, width, dtype=dtype), order, signs)

    yield "round_kernel", "last round", False, run(WIDTH)
    yield "round_kernel", "odd width", False, run(ODD_WIDTH)


def _norm_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.norm.launch import rms_norm

    def run(width: int, form: str = "rounded") -> Run:
        x, weight = (torch.zeros(shape, dtype=torch.bfloat16) for shape in ((ROWS, width), (width,)))
        return lambda: rms_norm(x, weight, 1e-5, form)

    for width in (4096, 8192):
        yield "norm_kernel", f"width {width}", True, run(width)
    yield "norm_kernel", "width 2304, offset", True, run(2304, "offset")
    yield "norm_kernel", "odd width", False, run(1001)


def _float8_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.float8.launch import quantise_rows

    def run(width: int, dtype: torch.dtype = torch.bfloat16) -> Run:
        return lambda: quantise_rows(torch.zeros(ROWS, width, dtype=dtype))

    for width in (576, 4096, 11008):
        yield "quantise_kernel", f"width {width}", True, run(width)
    yield "quantise_kernel", "width 4096, float32", True, run(4096, torch.float32)
    yield "quantise_kernel", "odd width", False, run(1001)


def _rotary_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.rotary.launch import apply_rotary

    def run(width: int, dtype: torch.dtype = torch.bfloat16) -> Run:
        x = torch.zeros(1, ROWS, 32, width, dtype=dtype).transpose(1, 2)
        angles = torch.zeros(1, ROWS, width, dtype=dtype)
        return lambda: apply_rotary(x, angles, angles)

    for width in (64, 128):
        yield "rotary_kernel", f"width {width}", True, run(width)
    yield "rotary_kernel", "width 128, float16", True, run(128, torch.float16)
    yield "rotary_kernel", "width 36", False, run(36)


def _experts_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.experts.launch import expert_sums

    def run(width: int, dtype: torch.dtype = torch.bfloat16) -> Run:
        hidden, weight = torch.zeros(ROWS, width, dtype=dtype), torch.zeros(ROWS)
        offsets = torch.tensor([0] * 32 + [ROWS])
        return lambda: expert_sums(hidden, weight, offsets, 16)

    yield "sums_kernel", "width 768", True, run(768)
    yield "sums_kernel", "width 2880, float32", True, run(2880, torch.float32)
    yield "sums_kernel", "odd width", False, run(1001)


def _nll_runs() -> Iterator[tuple[str, str, bool, Run]]:
    import torch

    from nait_fast.kernels.nll.launch import token_losses

    def run(width: int, dtype: torch.dtype = torch.bfloat16, bias: bool = False, softcap: float | None = None) -> Run:
        x, weight = (torch.zeros(n, width, dtype=dtype) for n in (ROWS, 32000))
        labels = torch.zeros(ROWS, dtype=torch.int64)
        return lambda: token_losses(x, weight, labels, torch.zeros(32000, dtype=dtype) if bias else None, 0.5, softcap)

    yield "losses_kernel", "width 4096", True, run(4096)
    yield "losses_kernel", "width 2304, cap", True, run(2304, softcap=30.0)
    yield "losses_kernel", "width 2048, bias, float16", True, run(2048, torch.float16, bias=True)
    yield "losses_kernel", "width 576, float32", True, run(576, torch.float32)
    yield "losses_kernel", "odd width", False, run(1001)


def _work(kernel: str, values: dict[str, Any]) -> dict[str, Any]:
    """What one iteration of a launch's loop does, by the fields of ``Case``."""

    def product(*names: str) -> int:
        return prod(values[name] for name in names)

    if kernel == "capture_kernel":
        reads = values["HAS_GATE"] and (values["WRITE"] or values["SUM"])
        return {"tile": product("BLOCK_T", "BLOCK_J") * values["up"].element_size(), "loads": 1 + reads}
    if kernel == "join_kernel":
        return {"tile": product("BLOCK_P", "BLOCK_J") * values["partial"].element_size()}
    if kernel == "sums_kernel":
        return {"tile": product("BLOCK_R", "BLOCK_J") * values["hidden"].element_size()}
    if kernel == "pack_kernel":
        return {"tile": product("BLOCK_B", "BLOCK_J") * values["values"].element_size()}
    if kernel == "topk_kernel":
        return {"tile": values["BLOCK_J"] * values["values"].element_size()}
    if kernel == "norm_kernel":
        return {"tile": product("BLOCK_N", "WARPS") * 128 * values["x"].element_size()}
    if kernel == "quantise_kernel":
        return {"tile": product("BLOCK_N", "BLOCK_K") * values["x"].element_size()}
    if kernel == "rotary_kernel":  # halves of a head, and their angles
        return {"tile": product("BLOCK_N", "BLOCK_D") * values["x"].element_size(), "loads": 6}
    if kernel == "round_kernel":  # its loads follow a permutation
        return {}
    if kernel == "dot_kernel":  # one product for each of a byte's eight bits
        return {"tile": product("BLOCK_N", "BLOCK_K"), "macs": 8 * product("BLOCK_N", "BLOCK_K", "BLOCK_M")}
    if kernel == "losses_kernel":
        macs = product("BLOCK_N", "BLOCK_V", "BLOCK_K") * (values["x"].element_size() == 2)
        tile = (values["BLOCK_N"] + values["BLOCK_V"]) * values["BLOCK_K"] * values["x"].element_size()
        return {"tile": tile, "macs": macs}
    words = product("BLOCK_N", "BLOCK_W")
    counted = words * values["N_PLANES"]
    work = {"tile": words * values["codes"].element_size(), "loads": 1}
    if kernel == "count_kernel":
        return work | {"words": (counted, counted)}
    # Lanes are summed layer by layer. v_bcnt also adds, so AMD may count a word again to add a neighbour's count to it.
    steps = -(-values["WORDS"] // values["BLOCK_W"])
    return work | {"words": (steps * counted, 2 * steps * counted), "loads": steps}


_RUNS = (
    _capture_runs,
    _bitpack_runs,
    _popcount_runs,
    _rotate_runs,
    _norm_runs,
    _float8_runs,
    _rotary_runs,
    _experts_runs,
    _nll_runs,
)


def cases() -> list[Case]:
    """Every case, once for CUDA's targets and once for AMD's."""
    out = []
    for hip in (False, True):
        for runs in _RUNS:
            for wanted, name, aligned, run in runs():
                targets = HARDWARE.get(wanted, ("gfx",) if hip else ("sm",))
                if hip != (targets[0] == "gfx"):
                    continue
                with _recorded(hip) as launches:
                    run()
                kernel, values = [launch for launch in launches if launch[0].__name__ == wanted][-1]
                work = _work(wanted, values) | ({} if aligned else {"tile": 0})
                out.append(_case(kernel, values, hip, name=name, targets=targets, **work))
    return out
