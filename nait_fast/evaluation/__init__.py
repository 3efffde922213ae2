"""What ``evaluate`` measures, and the name and kind of the file that it writes."""

KIND, FORMAT_VERSION, FILE = "nait_fast evaluation", 1, "evaluation.json"
