"""The names of an index's files, and what those of JSON say that they are; docs/format.md is the specification."""

MANIFEST = "manifest.json"
CODEBOOK = "codebook.safetensors"
CALIBRATION = "calibration.safetensors"
WHITENING = "whitening.safetensors"
SKIPPED = "skipped.jsonl"
RUN = "run.json"
WORK = "work"
LOCK = ".lock"  # held by the one worker that numbers the pool, calibrates or finishes
NEXT_PLAN = "plan-next.json"
INDEX_KIND, PLAN_KIND = "nait_fast index", "nait_fast plan"  # `kind` in a manifest, in a plan


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def plan_name(number: int) -> str:
    """The file that says where the rows of the index's dataset ``number`` lie."""
    return f"plan-{number:02d}.json"
