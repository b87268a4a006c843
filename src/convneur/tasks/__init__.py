"""What a model is trained for: head, loss, metrics."""
