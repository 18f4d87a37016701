"""Files: written whole or not at all, over nothing of another's, and read with their checksums."""
