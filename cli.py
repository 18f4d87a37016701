"""Run LightningCLI: `python cli.py fit --config quickstart`."""

from lightning_sparsegrad.main import main

if __name__ == "__main__":
    main()
