"""The names of an index's files; docs/format.md is the specification."""

MANIFEST = "manifest.json"
CODEBOOK = "codebook.safetensors"
CALIBRATION = "calibration.safetensors"
SKIPPED = "skipped.jsonl"
RUN = "run.json"
WORK = "work"
LOCK = ".lock"  # held by the one worker that numbers the pool, calibrates or finishes


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


NEXT_PLAN = "plan-next.json"


def plan_name(number: int) -> str:
    """The file that says where the rows of the index's dataset ``number`` lie."""
    return f"plan-{number:02d}.json"
