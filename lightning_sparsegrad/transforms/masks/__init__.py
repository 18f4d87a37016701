"""Masks: strategies that zero some gradients, drawn anew or learnt."""
