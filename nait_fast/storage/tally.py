"""Counts by name that stay small whatever the names are."""

from collections.abc import Mapping

OTHERS = "(others)"
MOST_NAMES = 200


def capped(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of the most frequent names, in the names' order; those of all others together under OTHERS."""
    named = sorted((item for item in counts.items() if item[0] != OTHERS), key=lambda item: (-item[1], item[0]))
    others = counts.get(OTHERS, 0) + sum(number for _, number in named[MOST_NAMES:])
    return dict(sorted(named[:MOST_NAMES])) | ({OTHERS: others} if others else {})
