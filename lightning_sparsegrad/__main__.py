"""Run the command line: `python -m lightning_sparsegrad fit --config task.yaml`."""

from lightning_sparsegrad.main import main

if __name__ == "__main__":
    main()
