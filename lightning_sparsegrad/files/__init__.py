"""Files: atomic writes that never overwrite another run's file, and reads that verify checksums."""
