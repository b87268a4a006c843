"""Image sources and transforms."""
