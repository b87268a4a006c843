"""Who may use the page: a file with a line ``user:password`` for each."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

LARGEST = 1_000_000  # bytes of the file


class Accounts:
    """Users and their passwords; called with both, it says whether they are right.

    It takes as long for a user that there is as for one that there is not, and for a password that is nearly right.

    Args:
        known: Passwords by user.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._key = secrets.token_bytes(32)
        self._known = [(self._digest(user), self._digest(password)) for user, password in known.items()]

    def __call__(self, user: str, password: str) -> bool:
        """Whether the user is known, and this is their password."""
        given = self._digest(user), self._digest(password)
        right = False
        for known in self._known:  # all of them, and both parts of each: the time tells nothing
            is_user, is_password = (hmac.compare_digest(*pair) for pair in zip(known, given, strict=True))
            right |= is_user & is_password
        return right

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)

    @classmethod
    def read(cls, file: Path) -> Accounts:
        """Read a file.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no regular file, too large, or has a line that is not ``user:password``; one line that
                names it, and never a password.
        """
        if not file.exists():
            raise FileNotFoundError(f"--auth {file} does not exist; give a file with lines user:password")
        if not file.is_file() or file.stat().st_size > LARGEST:
            raise ValueError(f"--auth {file} is not a small file; give one with lines user:password")
        known: dict[str, str] = {}
        for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if not line.strip():
                continue
            place = f"--auth {file}, line {number}:"
            try:
                user, separator, password = line.removesuffix(b"\r").decode("utf-8").partition(":")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is not UTF-8; save the file as UTF-8") from error
            if not (separator and user and password) or user != user.strip():
                raise ValueError(f"{place} is not user:password; give both, without spaces around the user")
            if user in known:
                raise ValueError(f"{place} names {user!r} a second time; give each user one line")
            known[user] = password
        if not known:
            raise ValueError(f"--auth {file} has no line user:password; nobody could log in")
        return cls(known)
