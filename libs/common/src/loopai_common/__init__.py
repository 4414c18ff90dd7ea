"""What every Loopai service shares: contracts, errors, and the runtime that carries a service."""

from importlib.metadata import version

__version__ = version("loopai-common")
