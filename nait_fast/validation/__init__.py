"""What ``validate`` measures, by training: whether a model learns more from a selection than from random rows."""

KIND, FORMAT_VERSION, FILE = "nait_fast validation", 1, "validation.json"
RUNS, RUNS_KIND = "runs.jsonl", "nait_fast validation runs"  # each training as soon as it is done
