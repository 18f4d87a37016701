"""Before training: which entries of a model to train, chosen by the gradients of single samples."""
