"""Freezes: strategies that drop whole tensors."""
