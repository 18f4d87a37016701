"""What an exact resume is made of: when checkpoints are written and how, random states, data order and metrics."""
