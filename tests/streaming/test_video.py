"""Memories carried from frame to frame."""

from __future__ import annotations

import pytest
import torch

from convneur.memory import SlotMemory
from convneur.streaming import video
from tests.models.builders import create

SMALL = {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "num_classes": 5}


def frames(count):
    torch.manual_seed(1)
    return [torch.randn(2, 3, 64, 96) for _ in range(count)]


def test_without_carrying_each_frame_is_an_image():
    model, seen = create("convneur_m1", **SMALL).eval(), frames(3)
    with torch.inference_mode():
        expected = [model(frame) for frame in seen]
    for found, wanted in zip(video(model, seen, carry=False), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_memory_goes_on_from_the_frame_before():
    model = create("convneur_m1", **SMALL).eval()
    first, second, third = frames(3)
    said = list(video(model, [first, second]))
    torch.testing.assert_close(said[0], next(video(model, [first], carry=False)))  # there is nothing to go on from
    after_another = list(video(model, [third, second]))[1]
    assert (said[1] - after_another).abs().max() > 1e-4  # the same frame, after another one
    assert (said[1] - next(video(model, [second]))).abs().max() > 1e-4


def test_states_are_those_of_the_memory_itself():
    """One branch by hand: its memory called with the state that it gave for the frame before."""
    model = create("convneur_m1", **SMALL | {"dims": (8,), "depths": (1,), "num_classes": 0}, token_strides=(4,)).eval()
    (memory,) = (module for module in model.modules() if isinstance(module, SlotMemory))
    seen, tokens = frames(3), []
    hook = memory.register_forward_pre_hook(lambda _, given: tokens.append(given[0]))
    answers: list[torch.Tensor] = []
    other = memory.register_forward_hook(lambda _module, _given, answer: answers.append(answer[0]))
    list(video(model, seen))
    hook.remove()
    other.remove()
    state = None
    for given, answer in zip(tokens, answers, strict=True):
        with torch.inference_mode():
            wanted, state = memory(given, state, True)
        torch.testing.assert_close(answer, wanted)


def test_the_model_is_left_as_it_was_even_if_nobody_sees_the_end():
    model = create("convneur_m1", **SMALL).eval()
    stream = video(model, frames(3))
    next(stream)
    stream.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="batch"):
        list(video(model, [torch.randn(1, 3, 64, 64), torch.randn(2, 3, 64, 64)]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_carried_is_refused():
    with pytest.raises(ValueError, match="no neural memory"):
        list(video(create("convneur_m1", **SMALL, global_placement="none").eval(), frames(1)))
    with pytest.raises(ValueError, match="training mode"):
        list(video(create("convneur_m1", **SMALL).train(), frames(1)))
    fused = create("convneur_m1", **SMALL).eval()
    plain = list(video(fused, frames(2)))
    for found, wanted in zip(video(fused.fuse(), frames(2)), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
