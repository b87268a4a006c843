"""``python -m convneur`` is ``convneur``."""

from convneur.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
