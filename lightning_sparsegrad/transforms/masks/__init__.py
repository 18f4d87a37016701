"""Masks: strategies that zero some gradients, drawn at random or learnt."""
