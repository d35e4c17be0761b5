"""Finding and reading the licensed MANO files (provisional)."""


class ManoFileNotFoundError(FileNotFoundError):
    """No MANO file where the package looks for one."""


def load_mano(side: str, path: str | None = None) -> dict:
    """Provisional: always raises."""
    raise ManoFileNotFoundError(f"no MANO file for the {side} hand")
