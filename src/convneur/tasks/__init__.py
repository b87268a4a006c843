"""What a model is trained for: head, loss, metrics."""

from convneur.tasks.classification import Classification
from convneur.tasks.marking import Marking

__all__ = ["Classification", "Marking"]
