"""Who may use the page."""

import hmac
import os

import pytest

from convneur.app.accounts import Accounts


def test_users_and_passwords_are_compared_whole_and_in_the_same_steps(tmp_path, monkeypatch):
    file = tmp_path / "users"
    file.write_bytes("\ufeffann:se:cret \r\n\nböb:pässwörd\n".encode())
    accounts, compared = Accounts.read(file), []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a)) or a == b)
    for user, password, right in [
        ("ann", "se:cret ", True),
        ("böb", "pässwörd", True),
        ("ann", "se:cret", False),
        ("ann", "pässwörd", False),
        ("ann:se", "cret ", False),
        ("nobody", "se:cret ", False),
        ("", "", False),
        ("\ud800", "\ud800", False),
    ]:
        compared.clear()
        assert accounts(user, password) is right
        assert compared == [32] * 4  # user and password of both, of one length, whatever was given


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no line user:password"),
        (b"\n \n", "has no line user:password"),
        (b"a:b\nsecret\n", "line 2: is not user:password"),
        (b"a:b\n:secret\n", "line 2: is not user:password"),
        (b"secret:\n", "line 1: is not user:password"),
        (b" a:secret\n", "line 1: is not user:password"),
        (b"a:b\na:secret\n", "line 2: names 'a' a second time"),
        (b"a:b\n\xff:secret\n", "line 2: is not UTF-8"),
    ],
)
def test_files_that_say_nobody_clearly_are_refused_without_a_password_in_the_line(tmp_path, content, message):
    file = tmp_path / "users"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        Accounts.read(file)
    assert "secret" not in str(refused.value)
    assert str(file) in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, kind in [
        (tmp_path, ValueError),
        (tmp_path / "fifo", ValueError),
        (tmp_path / "absent", FileNotFoundError),
    ]:
        with pytest.raises(kind, match="with lines user:password"):
            Accounts.read(path)
