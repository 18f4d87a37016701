"""Training loops: one adapter per loop tells an engine where training stands."""
