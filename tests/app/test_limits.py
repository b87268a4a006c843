"""What is refused, and when it is taken again."""

import pytest

from convneur.app.asgi import RefusedError
from convneur.app.limits import Limits, RateLimit
from convneur.data.decode import UnreadableImageError
from tests.data import files


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_client_may_send_so_many_in_any_minute():
    clock = Clock()
    rate = RateLimit(3, clock)
    for clock.now in (0.0, 10.0, 20.0):
        rate.admit("a")
    clock.now = 59.0
    with pytest.raises(RefusedError, match="more than 3 requests a minute; ask again in 1 s"):
        rate.admit("a")
    rate.admit("b")  # another client is not held up
    clock.now = 60.0  # the first is a minute old; what was refused did not count
    rate.admit("a")
    with pytest.raises(RefusedError, match="in 10 s"):
        rate.admit("a")


def test_clients_that_have_gone_are_forgotten():
    clock = Clock()
    rate = RateLimit(1, clock)
    for number in range(100):
        rate.admit(str(number))
    clock.now = 61.0
    rate.admit("new")
    assert set(rate._seen) == {"new"}


def test_images_are_decoded_within_limits():
    limits = Limits(megapixels=0.01, megabytes=0.002)
    assert limits.decode(files.encoded(files.plain(), "PNG")).size == (24, 16)
    for file, message in [
        (files.encoded(files.plain(size=(200, 100)), "PNG"), "200 x 100 px is more than the limit of 0.01 megapixels"),
        (files.encoded(files.plain(size=(170, 10)), "PNG"), "170 x 10 px is too long"),
        (b"0" * 2001, "the file is larger than the limit of 0.002 MB"),
        (files.bomb(), "30000 x 30000 px is more than the limit"),
        (b"", "the file is empty"),
        (b"text", "not an image"),
    ]:
        with pytest.raises(UnreadableImageError, match=message):
            limits.decode(file)


@pytest.mark.parametrize("name", ["megapixels", "megabytes", "per_minute", "queue"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_let_nothing_in_are_refused(name, value):
    with pytest.raises(ValueError, match="is out of range; give a number above 0"):
        Limits(**{name: value})
