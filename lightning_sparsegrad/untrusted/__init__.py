"""Guards against untrusted input: limits on what a config, a checkpoint or a text can make this process do."""
