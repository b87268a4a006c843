"""``python -m convneur`` is ``convneur``."""

from convneur_command import main

if __name__ == "__main__":
    raise SystemExit(main())
