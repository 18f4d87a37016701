"""Freezes: strategies that take whole tensors out."""
