from tests.lightning.conftest import run_of_its_own  # noqa: F401
