"""Adapters of training loops: each reports to an engine where training stands."""
