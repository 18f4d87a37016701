"""Before training: what a strategy will do to a model, and what a clip would do to its gradients."""
