"""Score samples as they arrive and keep the good ones: ``python score_a_stream.py WORK [MODEL]``.

The bar is the 80th percentile of the target's score over a first share of the stream, on which the thresholds are
calibrated, too.
"""

import numpy as np
from material import arguments, pool_rows, target_rows, write

import nait_fast

work, model = arguments()
rows = pool_rows()
first, stream = rows[:24], [*rows[24:], {"instruction": "a row without an answer", "output": ""}]

index = str(work / "index")
nait_fast.build_index(model=model, dataset=write(work / "first.jsonl", first), output=index, calibration_size=24)
signature = nait_fast.signature_of(model, target_rows("code"), name="code", codebook=index)
scorer = nait_fast.Scorer(model, [signature])
bar = float(np.quantile(scorer.score(first)[:, 0], 0.8))

kept, refused = [], []
for start in range(0, len(stream), 16):  # whatever a queue or a crawler hands over at a time
    batch = stream[start : start + 16]
    scores, problems = scorer.try_score(batch)
    kept += [row for row, score in zip(batch, scores[:, 0], strict=True) if score >= bar]  # NaN is never kept
    refused += [f"sample {start + i}: {why}" for i, why in problems.items()]

print(f"kept {len(kept)} of {len(stream)}, code among them: {sum(row['source'] == 'code' for row in kept)}")
print("refused:", refused)
