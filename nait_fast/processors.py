"""What this machine's processor is called, told apart where the system gives all of a maker's the same name."""

import platform
import re
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Servers' cores by (vendor, family, model) of CPUID, which a virtual machine shows where it hides the rest of the name.
_CORES = {
    ("AuthenticAMD", 23, 1): "Zen Naples",
    ("AuthenticAMD", 23, 49): "Zen 2 Rome",
    ("AuthenticAMD", 25, 1): "Zen 3 Milan",
    ("AuthenticAMD", 25, 17): "Zen 4 Genoa",
    ("AuthenticAMD", 25, 160): "Zen 4c Bergamo",
    ("AuthenticAMD", 26, 2): "Zen 5 Turin",
    ("AuthenticAMD", 26, 17): "Zen 5c Turin",
    ("GenuineIntel", 6, 63): "Haswell",
    ("GenuineIntel", 6, 79): "Broadwell",
    ("GenuineIntel", 6, 106): "Ice Lake",
    ("GenuineIntel", 6, 143): "Sapphire Rapids",
    ("GenuineIntel", 6, 173): "Granite Rapids",
    ("GenuineIntel", 6, 175): "Sierra Forest",
    ("GenuineIntel", 6, 207): "Emerald Rapids",
}
_CORES_BY_STEPPING = {("GenuineIntel", 6, 85): ((4, "Skylake"), (9, "Cascade Lake"), (15, "Cooper Lake"))}  # up to
_ARM_CORES = {"0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2"}
# What decides how fast, and in which dtype, matrices are multiplied.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512_vpopcntdq", "amx_bf16", "amx_int8")


def fields_of(cpuinfo: str) -> dict[str, str]:
    """The first processor's fields of ``/proc/cpuinfo``."""
    lines = (line.partition(":") for line in cpuinfo.strip().split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


@cache
def _fields() -> dict[str, str]:
    try:
        return fields_of(CPUINFO.read_text())
    except OSError:
        return {}


def _number(fields: dict[str, str], name: str) -> int:
    value = fields.get(name, "")
    return int(value) if value.isdecimal() else -1


def core_of(fields: dict[str, str]) -> str:
    """The cores' name where it is known, else ``family-F-model-M``; '' where the system tells neither."""
    if part := fields.get("CPU part"):
        return _ARM_CORES.get(part, f"implementer-{fields.get('CPU implementer', '')}-part-{part}")
    key = (fields.get("vendor_id", ""), _number(fields, "cpu family"), _number(fields, "model"))
    if min(key[1:]) < 0:
        return ""
    stepping = _number(fields, "stepping")
    for last, name in _CORES_BY_STEPPING.get(key, ()):
        if 0 <= stepping <= last:
            return name
    return _CORES.get(key, f"family-{key[1]}-model-{key[2]}")


def name_of(fields: dict[str, str]) -> str:
    """The name that the system gives; behind one without any model's number, such as 'AMD EPYC', the cores' in
    brackets."""
    name = fields.get("model name", "") or platform.processor() or platform.machine()
    core = core_of(fields)
    # A clock, a count of cores and an emulator's version are no model's number.
    bare = re.sub(r"@ *[\d.]+ *GHz|\b\d+-core\b|\bversion \S+|aarch64|x86_64", "", name, flags=re.IGNORECASE)
    return f"{name} ({core})" if core and not re.search(r"\d", bare) else name


def processor() -> str:
    """The CPU's name: what the system says, with its cores' name where that says nothing."""
    return name_of(_fields())


def processor_features() -> list[str]:
    """Those of ``FEATURES`` that the processor has."""
    flags = set(_fields().get("flags", "").split())
    return [feature for feature in FEATURES if feature in flags]
