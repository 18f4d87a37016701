"""Input of any origin: what a config, a checkpoint or a text may have this process do."""
