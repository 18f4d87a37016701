"""Names of models and data: hub ids, local folders, files inside installed distributions."""
