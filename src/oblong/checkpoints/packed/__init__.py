"""Weights that a quantiser stored as several tensors: found, checked and decoded as one."""
