"""Clips: strategies that bound gradients."""
