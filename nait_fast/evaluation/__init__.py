"""What ``evaluate`` and ``compare`` measure, and the names and kinds of the files that they write."""

KIND, FORMAT_VERSION, FILE = "nait_fast evaluation", 1, "evaluation.json"
COMPARISON_KIND, COMPARISON_FILE = "nait_fast comparison", "compare.json"
