"""The Python client of Loopai: :class:`LoopaiClient` and :class:`AsyncLoopaiClient`.

Their errors are in :mod:`loopai_client.errors`, what they answer with in :mod:`loopai_client.models`.
"""

from loopai_client.client import AsyncLoopaiClient, LoopaiClient
from loopai_client.errors import LoopaiError
from loopai_client.models import BatchItem

__all__ = ["AsyncLoopaiClient", "BatchItem", "LoopaiClient", "LoopaiError"]
