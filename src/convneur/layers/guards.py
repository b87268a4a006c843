"""Whether a module may be computed as one operation, and how torch.fx sees it."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module


def classes_of(module: nn.Module) -> tuple[type, ...]:
    """Classes of a module and its children, level by level, for `untouched`."""
    walked: list[nn.Module | None] = [module]
    for each in walked:  # grows meanwhile
        if each is not None:
            walked.extend(each._modules.values())
    return tuple(type(each) for each in walked)


def untouched(module: nn.Module, built: tuple[type, ...]) -> bool:
    """Whether nothing would be missed if a module were computed as one operation instead of child by child.

    No hooks are registered, no forward is replaced on the module or its children, and their classes are as they were
    built (`classes_of`). Otherwise the modules run one after another, so a hook, an adapter or a replaced submodule
    counts.
    """
    walked: list[nn.Module | None] = [module]
    try:  # what is asked here has no public name; should one be gone, the modules run
        if (
            torch_module._global_forward_hooks
            or torch_module._global_forward_pre_hooks
            or torch_module._global_backward_hooks
            or torch_module._global_backward_pre_hooks
        ):
            return False
        for place, each in enumerate(walked):  # grows meanwhile; `nn.Module.modules` takes ten times as long
            if place == len(built) or type(each) is not built[place]:
                return False
            if each is None:  # a child that was left out
                continue
            if (
                "forward" in each.__dict__
                or each._forward_hooks
                or each._forward_pre_hooks
                or each._backward_hooks
                or each._backward_pre_hooks
            ):
                return False
            walked.extend(each._modules.values())
    except AttributeError:
        return False
    return len(walked) == len(built)


def is_exporting() -> bool:
    """Whether torch.export traces, with tensors of classes of its own in the place of weights."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def refuse_scripting(module: nn.Module) -> NoReturn:
    """What torch.jit.script gets, which asks every part of a model for its ``__prepare_scriptable__``.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError(
        "a ConvNeur cannot be compiled by torch.jit.script, which PyTorch has deprecated; write a file with "
        "`convneur export`, or use torch.jit.trace, torch.export or torch.compile"
    )


def is_symbolic(x: Any) -> bool:
    """Whether torch.fx traces symbolically."""
    return isinstance(x, fx.Proxy)


def as_one_node(module: nn.Module, x: Any) -> Any:
    """What a symbolic tracer gets for a module whose forward depends on sizes: a call of the whole module."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})
