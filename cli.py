"""Run LightningCLI: `python cli.py fit --config configs/quickstart.yaml`."""

from lightning_sparsegrad.main import main

if __name__ == "__main__":
    main()
