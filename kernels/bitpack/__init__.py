"""Bit codes of MLP neurons: one bit a neuron, packed least significant bit first."""
