"""Text and JSON as other programs write them: byte order marks, ends of lines, blank lines, and what is none."""

import math

import pytest

from convneur.data.paths import read_json, read_lines, read_text
from convneur.json_files import parse_json


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_marks_ends_of_lines_and_blanks_are_no_part_of_the_text(tmp_path, mark):
    file = tmp_path / "names.txt"
    file.write_bytes(mark + "ä dog \r\n\r\n \t\r\ncat\r\n".encode())
    assert read_lines(file) == [(1, "ä dog"), (4, "cat")]
    (tmp_path / "a.json").write_bytes(mark + b'{"a": [1, NaN]}\r\n')
    one, none = read_json(tmp_path / "a.json")["a"]
    assert one == 1
    assert math.isnan(none)
    assert parse_json(mark + b'{"a": 1}') == {"a": 1}


def test_text_of_another_encoding_is_named(tmp_path):
    (tmp_path / "names.txt").write_bytes("dög".encode("latin-1"))
    with pytest.raises(ValueError, match=r"names\.txt is no UTF-8 text, from byte 1 on; save it as UTF-8"):
        read_text(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 40 + "]" * 40, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits"),
        ('{"a": 1, "a": 2}', '"a" twice'),
        ('{"a": \n', "line 2, column 1"),
    ],
    ids=["deep", "deeper", "digits", "twice", "cut off"],
)
def test_json_that_cannot_be_used_is_named_in_one_line(tmp_path, text, reason):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json cannot be read: ") as refused:
        read_json(file)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
