"""Where images are, one file a format; training, evaluation, prediction and embedding read through the same."""
