"""Bad input made by a seed: `python -m tests.fuzz --minutes 10 --seed 1` tries as much of it as the time allows."""
