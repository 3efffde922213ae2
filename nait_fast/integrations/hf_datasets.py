"""Hugging Face ``datasets``: scores as columns, through ``Dataset.map`` or an ``IterableDataset``'s.

``ds.map(ScoreColumns(model, signatures), batched=True, batch_size=256)``
"""

from nait_fast.integrations.batch import BatchScorer


class ScoreColumns(BatchScorer):
    """A function for ``map(..., batched=True)``; ``datasets`` adds what it returns to the batch's own columns.

    Its hash, by which ``datasets`` finds a cached result, is that of its arguments: after a change of a file behind an
    unchanged name, pass ``load_from_cache_file=False``. With ``num_proc`` each process loads the model.
    """
