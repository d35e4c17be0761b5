"""Versions of installed packages, for reports and for what was made with them."""


def package_version(name: str) -> str | None:
    """Version of an installed distribution, None if it is not there."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
