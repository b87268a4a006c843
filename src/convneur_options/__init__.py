"""What can be set: dataclasses with their defaults, for library and command. Only the standard library is imported.

They stand beside the package ``convneur``, whose import takes seconds, so that the command line is read at once.
"""

__version__ = "0.1.0"
