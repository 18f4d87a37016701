"""Exact resume: when checkpoints are written and how, random states, data order and metrics."""
