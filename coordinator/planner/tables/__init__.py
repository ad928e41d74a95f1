"""The tables that costs are made of: bytes, memory, operators, states of a model."""
