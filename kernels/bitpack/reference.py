"""Pure-torch reference of the bit-pack ops: the definition that every other backend is tested against.

Layout of one layer's code: neuron ``j`` is bit ``j % 8`` of byte ``j // 8`` (LSB first); a layer takes
``layer_bytes(J)`` bytes, whole 32-bit words, and the bits past ``J`` are zero.
"""

import torch


def layer_bytes(n_neurons: int) -> int:
    """Bytes that one layer of ``n_neurons`` takes in a code: whole 32-bit words."""
    return (n_neurons + 31) // 32 * 4


def pack_bool(bits: torch.Tensor) -> torch.Tensor:
    """Pack ``bits`` bool [B, J] to uint8 [B, layer_bytes(J)]."""
    n_rows, n_neurons = bits.shape
    padded = torch.zeros(n_rows, layer_bytes(n_neurons) * 8, dtype=torch.uint8, device=bits.device)
    padded[:, :n_neurons] = bits
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (padded.view(n_rows, layer_bytes(n_neurons), 8) << shifts).sum(-1, dtype=torch.uint8)


def unpack(codes: torch.Tensor, n_neurons: int) -> torch.Tensor:
    """Inverse of the packing: ``codes`` uint8 [B, layer_bytes(J)] to bool [B, J]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, :n_neurons].bool()


def pack_bits(values: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Threshold and pack: bit ``j`` of row ``i`` is ``values[i, j] > threshold[j]`` (NaN gives 0).

    ``values`` float [B, J], ``threshold`` float [J]; returns uint8 [B, layer_bytes(J)].
    """
    return pack_bool(values > threshold)


def topk_bits(values: torch.Tensor, k: int) -> torch.Tensor:
    """Bitset of the ``k`` largest of each row of ``values`` [B, J]; equal values: the lower index wins.

    Returns uint8 [B, layer_bytes(J)].
    """
    order = torch.sort(values, dim=1, descending=True, stable=True).indices[:, :k]
    bits = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    return pack_bool(bits.scatter_(1, order, True))
