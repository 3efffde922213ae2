"""The processor's name tells machines apart that the system calls the same."""

import pytest

from benchmarks.record import hardware
from nait_fast.env import environment
from nait_fast.processors import core_of, fields_of, name_of, processor

INFO = "vendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nstepping\t: {}\n\nvendor_id\t: other\n"
NAMES = [
    (("AuthenticAMD", 25, 17, "AMD EPYC", 1), "AMD EPYC (Zen 4 Genoa)", "cpu-amd-epyc-zen-4-genoa-2c"),
    (("AuthenticAMD", 26, 2, "AMD EPYC", 1), "AMD EPYC (Zen 5 Turin)", "cpu-amd-epyc-zen-5-turin-2c"),
    (("AuthenticAMD", 26, 99, "AMD EPYC", 1), "AMD EPYC (family-26-model-99)", "cpu-amd-epyc-family-26-model-99-2c"),
    (("AuthenticAMD", 25, 17, "AMD EPYC 9B14", 1), "AMD EPYC 9B14", "cpu-amd-epyc-9b14-2c"),
    (
        ("GenuineIntel", 6, 207, "Intel(R) Xeon(R) Processor", 2),
        "Intel(R) Xeon(R) Processor (Emerald Rapids)",
        "cpu-intel-xeon-emerald-rapids-2c",
    ),
    (
        ("GenuineIntel", 6, 143, "Intel(R) Xeon(R) CPU @ 2.70GHz", 8),
        "Intel(R) Xeon(R) CPU @ 2.70GHz (Sapphire Rapids)",
        "cpu-intel-xeon-sapphire-rapids-2c",
    ),
    (
        ("GenuineIntel", 6, 85, "Intel Xeon Processor", 11),
        "Intel Xeon Processor (Cooper Lake)",
        "cpu-intel-xeon-cooper-lake-2c",
    ),
]


@pytest.mark.parametrize(("fields", "name", "folder"), NAMES, ids=[folder for *_, folder in NAMES])
def test_a_name_without_a_model_gets_its_cores(fields: tuple, name: str, folder: str) -> None:
    assert name_of(fields_of(INFO.format(*fields))) == name
    assert hardware({"gpus": [], "cpu": name, "cores": 2}) == folder


def test_other_systems_and_earlier_rows() -> None:
    arm = {"CPU implementer": "0x41", "CPU part": "0xd4f"}
    assert name_of(arm).endswith("(Neoverse V2)") and core_of({}) == ""
    assert core_of(arm | {"CPU part": "0x1"}) == "implementer-0x41-part-0x1"
    assert hardware({"gpus": None, "cpu": "AMD EPYC", "cores": 2}) == "cpu-amd-epyc-2c"
    assert hardware({"gpus": ["NVIDIA H100 80GB HBM3"], "cpu": "x", "cores": 2}) == "nvidia-h100-80gb-hbm3"
    env = environment()
    assert env["cpu"] == processor() and isinstance(env["cpu_features"], list)
