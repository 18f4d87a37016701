"""The laws of the library and its cost on a GPU: `python -m benchmarks.gpu --minutes 8 --output FOLDER`.

It needs this package with torch, lightning and transformers, and neither jsonargparse nor datasets. Every model has
random weights in the shape of a real one. Each result is written when it is there, so that a run that is cut still has
what came before.
"""
