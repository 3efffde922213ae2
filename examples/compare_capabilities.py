"""One index, two targets: how alike are two capabilities? ``python compare_capabilities.py WORK [MODEL]``."""

import numpy as np
from material import arguments, pool_rows, target_rows, write

import nait_fast

work, model = arguments()
rows = pool_rows()
index = str(work / "index")
nait_fast.build_index(model=model, dataset=write(work / "pool.jsonl", rows), output=index, calibration_size=64)
signatures = [
    nait_fast.signature_of(model, target_rows(name), name=name, codebook=index) for name in ("arithmetic", "code")
]

# Signatures are weights of neurons: their cosine says how far two capabilities ask for the same ones.
a, b = (signature.tensors["weights"].astype(np.float64) for signature in signatures)
print(f"cosine of the signatures: {a @ b / np.linalg.norm(a) / np.linalg.norm(b):+.3f}")

# A new target costs a scan, no forward.
k = len(rows) // 10
best = {}
for signature in signatures:
    best_rows, scores = nait_fast.search(nait_fast.Index(index), signature, k)
    best[signature.name] = set(best_rows.tolist())
    sources = [rows[row]["source"] for row in best_rows]
    print(f"{signature.name}: best score {scores[0]:.2f}, its own source {sources.count(signature.name)} of {k}")
print(f"in both top tenths: {len(best['arithmetic'] & best['code'])} of {k}")

# The rows that serve both, half the budget from each in turn.
nait_fast.rank(
    index=index,
    signature=[str(s.save(work)) for s in signatures],
    combine="roundrobin",
    top_k=k,
    output=str(work / "both"),
)
