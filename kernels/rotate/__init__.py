"""Random rotation of a layer's neurons, and its 1-bit code."""

BLOCK = 128  # neurons mixed at once: every usual width is a multiple of it
ROUNDS = 2


def rotated_width(n_neurons: int) -> int:
    """Width J' that ``n_neurons`` are padded to with zeros before they are rotated: whole blocks."""
    return -(-n_neurons // BLOCK) * BLOCK
