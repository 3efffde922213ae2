"""What ``evaluate`` holds of an index: some numbers a row, not the codes; and no torch where no model is asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.ranking.indexes import contrast, write_index

IN_A_PROCESS = """
import resource, sys
from pathlib import Path
folder = Path({folder!r})
from nait_fast.config import EvaluateOptions
from nait_fast.verbs.evaluate import run
files = tuple(str(folder / f"{{name}}.safetensors") for name in "abcd")
peaks = []
for name in ("small", "large"):
    result = run(EvaluateOptions(index=str(folder / name), signature=files, output=str(folder / "out")), quiet=True)
    assert result["rows"] > 1000 and len(result["confounds"]) == 4
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks, "torch" in sys.modules)
"""


def test_memory_is_of_the_scores_not_of_the_codes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    codes, widths = generator.integers(0, 256, (40_000, 256), dtype=np.uint8), [1024, 1024]
    for name, shards in (("small", 1), ("large", 10)):
        each = (
            {
                "codes": np.roll(codes, i, axis=1),
                "row": np.arange(i * 40_000, (i + 1) * 40_000),
                "n_tokens": generator.integers(1, 99, 40_000).astype(np.int32),
            }
            for i in range(shards)
        )
        write_index(tmp_path / name, each, widths)
    for seed, name in enumerate("abcd"):
        contrast(name, widths, seed).save(tmp_path)
    script, root = IN_A_PROCESS.format(folder=str(tmp_path)), Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    small, large, torch = done.stdout.split()
    assert torch == "False"
    # 360,000 rows more: 12 MB of scores, about 33 with what ranks and orders take; of codes it would be 92.
    assert int(large) - int(small) < 60, (small, large)
