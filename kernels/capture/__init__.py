"""MLP activation capture: the activation product of a layer and, in the same step, its per-sequence statistics."""
