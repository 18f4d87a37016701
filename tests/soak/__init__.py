"""A soak: random trainings for as long as one likes, each window checked against a slow reference engine.

- `models`: the models to train, and their structure written by hand;
- `schedules`, `strategies`, `chains`: random strategies, each together with its slow reference and its statistics;
- `configurations`: a random training as plain data, a function of a seed and an index;
- `loop`: the training, with its stops; `twin`: the reference engine, which watches it;
- `fits`: the same strategies under a Trainer, stopped and resumed;
- `memory`: that nothing piles up; `soak`: the loop over all this, and what it counts.

`python -m tests.soak --minutes 60` runs it; a failure says by which arguments it comes again.
"""
