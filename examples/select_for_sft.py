"""Choose what exercises arithmetic out of a pool, for a trainer: ``python select_for_sft.py WORK [MODEL]``.

``chosen/messages.jsonl`` is what TRL's SFTTrainer and axolotl read (``load_dataset("json", data_files=...)``), and
``chosen/dataset_info.json`` what LLaMA-Factory does.
"""

import json
from collections import Counter

from material import arguments, pool_rows, target_rows, write

import nait_fast

work, model = arguments()
pool = write(work / "pool.jsonl", pool_rows())
target = write(work / "arithmetic.jsonl", target_rows("arithmetic"))

summary = nait_fast.select(
    model=model,
    dataset=pool,
    target=[f"arithmetic={target}"],
    fraction=0.1,
    calibration_size=64,
    output=str(work / "chosen"),
    export=["llama_factory", "messages"],
)

chosen = [json.loads(line) for line in (work / "chosen" / "selected.jsonl").read_text(encoding="utf-8").splitlines()]
print(f"{summary['rows_selected']} of {summary['rows_scored']} rows, {summary['tokens_selected']} tokens")
print("sources:", dict(Counter(row["source"] for row in chosen).most_common()))
# A ranking that follows length teaches length: look before you train.
print("correlation with length:", summary["spearman_with_length"])
print("first conversation:", (work / "chosen" / "messages.jsonl").read_text(encoding="utf-8").splitlines()[0][:100])
