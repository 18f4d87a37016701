"""The command line: its parser, its one-line errors, stored configs, and the tables after a run."""
