"""Images by the million: only their names are held, each is read where it lies, and any can be picked."""

from convneur.data.bulk.images import BulkImages
from convneur.data.bulk.sources import open_bulk

__all__ = ["BulkImages", "open_bulk"]
