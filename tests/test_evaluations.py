"""benchmarks/evaluations: what is kept of an evaluation, and its tables."""

from benchmarks.evaluations import lines, rows_of


def evaluation() -> dict:
    """Of one contrast signature, measured, and one that the index cannot score."""
    signature = {"name": "a", "method": "contrast", "reading": "mean", "kind": "contrast, mean, planes=4", "samples": 9}
    return {
        "rows": 50,
        "environment": {"commit": "c0"},
        "signatures": [
            {**signature, "label": "a (contrast)"},
            {**signature, "name": "b", "label": "b", "method": "nag"},
        ],
        "retrieval": [{"signature": "a (contrast)", "relevant": 5, "r_precision": 0.8, "auc": 0.9, "chance": 0.1}],
        "confounds": [{"signature": "a (contrast)", "spearman_with_length": -0.25, "layer_share": [0.7, 0.3]}],
        "stability": [{"signature": "a (contrast)", "halves": {"spearman": 0.5, "top10": 0.4, "repeats": 3}}],
    }


def test_rows_hold_the_measures_and_nothing_of_the_pool():
    (row,) = rows_of(evaluation(), "made by hand")
    assert (row["name"], row["rows"], row["r_precision"], row["largest_layer_share"]) == ("a", 50, 0.8, 0.7)
    assert row["halves"]["spearman"] == 0.5 and row["measured_with"] == {"commit": "c0"}


def test_tables():
    text = lines(list(rows_of(evaluation(), "made by hand")))
    assert "| contrast, planes=4 | 0.800 (-0.25) |" in text and "| contrast, planes=4 | 0.500 |" in text
    assert text.endswith("made by hand\n")
