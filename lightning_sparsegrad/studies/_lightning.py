"""Private names of LightningCLI with which a study parses the config of a run without running it.

No public name does this: with `run=False`, LightningCLI has no subcommands and accepts other arguments. The names are
checked against the installed version in `tests/private_names.py`. No upstream issue.
"""

from typing import Any

import yaml
from typing_extensions import override

from lightning_sparsegrad.cli.sparsegrad_cli import SparseGradCLI


class ConfigReader(SparseGradCLI):
    """A command line that parses its arguments and stops.

    Attributes:
        resolved: All arguments, defaults included, as plain values.
    """

    @override
    def instantiate_classes(self) -> None:
        parser = self._subcommand_parsers["fit"]
        text = parser.dump(self.config["fit"], skip_unset=False, skip_validation=True)
        self.resolved: dict[str, Any] = yaml.safe_load(text)

    @override
    def _set_seed(self) -> None:
        pass

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        pass
