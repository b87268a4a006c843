"""Named, typed configurations: where tasks, data and engine meet."""
