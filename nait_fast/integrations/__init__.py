"""Adapters: neuron-aware scores inside the data tools that a team already runs, one small module a tool."""
