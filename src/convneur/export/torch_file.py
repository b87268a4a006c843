"""Files of PyTorch itself: a torch.export program, and a package compiled by AOTInductor."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from convneur.export.program import quiet
from convneur.export.torch_graph import by_our_layers
from convneur.memory.packed import ONEDNN_AVAILABLE

FACTS = "convneur.json"


def write_program(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Write a ``.pt2`` file that any PyTorch of the same or a later version runs or compiles."""
    whole = io.BytesIO()  # torch's own writer ends the process when the disk is full
    with quiet():
        torch.export.save(program, whole, extra_files={FACTS: json.dumps(dict(facts))})
    path.write_bytes(whole.getbuffer())


def load_program(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """What runs the program, and its facts. Reading it runs code that is in it: for files that are trusted.

    Raises:
        ValueError: If the file is damaged.
    """
    _check_whole(path)
    extra: dict[str, str] = {FACTS: ""}
    with quiet():
        module = torch.export.load(path, extra_files=extra).module()
    by_our_layers(module)

    def run(images: Tensor) -> Tensor:
        return module(images)

    return run, _facts(extra[FACTS])


def require_compiler() -> None:
    """Ask for what `write_package` needs.

    Raises:
        ImportError: If there is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ImportError("--format aoti needs a C++ compiler; install g++ or clang, or set CXX") from error


def write_package(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Compile for this machine's processor and the number of threads that PyTorch has now."""
    _multiply_by_onednn(program.graph_module)
    with quiet():
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {FACTS: json.dumps(dict(facts))}},
        )


def load_package(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """The compiled code, and its facts. It is machine code: for files that are trusted.

    Raises:
        ValueError: If the file is damaged.
    """
    _check_whole(path)
    with quiet():
        compiled = torch._inductor.aoti_load_package(str(path))
    return compiled, _facts(compiled.get_metadata().get(FACTS, ""))


def _multiply_by_onednn(module: torch.fx.GraphModule) -> None:
    """Take the library for linear maps that our layers take on this processor; see `convneur.memory.products`."""
    if not ONEDNN_AVAILABLE:
        return
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default):
        if node.meta["val"].dtype is not torch.float32:
            continue
        x, weight, bias = (*node.args, None)[:3]
        with graph.inserting_before(node):
            product = graph.call_function(torch.ops.mkldnn._linear_pointwise.default, (x, weight, bias, "none", [], ""))
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    module.recompile()


def _check_whole(path: Path) -> None:
    """Compare the checksums: code that is damaged would be run otherwise."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")


def _facts(text: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(text) if text else {}
    return found
