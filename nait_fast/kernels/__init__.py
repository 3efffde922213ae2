"""The ops of the engine, one name each, whatever the device.

The sources of the ops live in the repository's top-level ``kernels/`` folder: an installed package maps it to
``nait_fast.kernels.<op>`` (setup.py), a source tree finds it through the two lines below. That folder has no
``__init__.py``, so it never shadows the Hugging Face package of the same name.
"""

from pathlib import Path as _Path

_here = _Path(__file__).resolve().parent
if not (_here / "capture").exists():  # a source tree or an editable install: the ops are beside the package
    __path__.append(str(_here.parent.parent / "kernels"))

_OPS = {
    "mlp_capture": "capture.launch",
    "segment_sums": "capture.launch",
    "expert_sums": "experts.launch",
    "pack_bits": "bitpack.launch",
    "pack_bool": "bitpack.reference",
    "unpack": "bitpack.reference",
    "topk_bits": "bitpack.launch",
    "layer_bytes": "bitpack.reference",
    "popcount_scan": "popcount.launch",
    "PopcountScan": "popcount.launch",
    "ScaledScan": "popcount.scaled",
    "rotate_bits": "rotate.launch",
    "rms_norm": "norm.launch",
    "quantise_rows": "float8.launch",
    "apply_rotary": "rotary.launch",
    "token_losses": "nll.launch",
}
__all__ = list(_OPS)


def __getattr__(name: str):
    # Each op is imported at first use: the scan needs no torch, the capture no Numba.
    if name not in _OPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_OPS[name]}"), name)
