"""ConvNeur inside other frameworks; each is imported by who wants it, and by nobody else."""
