"""Bad input generated from a seed: `python -m tests.fuzz --minutes 10 --seed 1` tries as much as the time allows."""
