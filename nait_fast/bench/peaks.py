"""What data sheets promise of GPUs: dense matrix products, without sparsity."""

import re

import torch

# Word of a device's name -> TFLOP/s in 16 bits, by NVIDIA's and AMD's data sheets; the first that the name has counts.
_SIXTEEN_BITS = {
    "GH200": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "H800 PCIe": 756.0,
    "H800": 989.4,
    "H20": 148.0,
    "A100": 311.9,
    "A800": 311.9,
    "B200": 2250.0,
    "L40S": 362.1,
    "L40": 181.1,
    "L4": 121.0,
    "A40": 149.7,
    "A10": 125.0,
    "MI300X": 1307.4,
}
# Eight bits are multiplied twice as fast, of both kinds but where they are named here.
_EIGHT_BITS = {"A100": ("int8",), "A800": ("int8",), "A40": ("int8",), "A10": ("int8",)}


def peak_of(device_name: str, dtype: torch.dtype) -> float | None:
    """Operations/s of a dense product in ``dtype`` by the data sheet of the device so named; None where none is known:
    another GPU, a CPU, fp32 (whose products a GPU makes in several ways)."""
    name = next((name for name in _SIXTEEN_BITS if re.search(rf"\b{name}\b", device_name)), "")
    if not name:
        return None
    if dtype in (torch.bfloat16, torch.float16):
        return _SIXTEEN_BITS[name] * 1e12
    kind = {torch.int8: "int8", torch.float8_e4m3fn: "float8"}.get(dtype)
    return _SIXTEEN_BITS[name] * 2e12 if kind in _EIGHT_BITS.get(name, ("int8", "float8")) else None
