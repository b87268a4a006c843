"""Nothing in the source reads a file in a way that may run what is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

# Modules that run what they read, or may; of pickle the name of its error alone is of use.
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "joblib", "hickle"}
FINE = {"pickle.UnpicklingError"}
# What runs what it is given, or what is in a file. A name with no dot is a function of Python itself.
FORBIDDEN = {
    "eval": "runs text",
    "exec": "runs text",
    "__import__": "runs a module by name",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "subprocess.getoutput": "runs a shell",
    "subprocess.getstatusoutput": "runs a shell",
    "yaml.load": "makes objects; yaml.safe_load does not",
    "yaml.load_all": "makes objects; yaml.safe_load_all does not",
    "yaml.unsafe_load": "makes objects; yaml.safe_load does not",
    "yaml.full_load": "makes objects; yaml.safe_load does not",
    ".read_pickle": "runs code",
    "torch.hub.load": "runs code of a repository",
    "torch.jit.load": "runs code",
    "runpy.run_path": "runs a file",
    ".exec_module": "runs a file",
    ".register_custom_ops_library": "loads machine code",
    ".add_extension": "loads machine code",
}
# Arguments, and what they may not be, whatever they are given to.
ARGUMENTS = {"allow_pickle": True, "weights_only": False, "trust_remote_code": True, "shell": True}
# Calls that need an argument.
REQUIRED = {
    "torch.load": ("weights_only", True),
    "timm.models.load_state_dict": ("weights_only", True),
    "timm.models.load_checkpoint": ("weights_only", True),
    "timm.models.resume_checkpoint": ("weights_only", True),
    "torch.hub.load_state_dict_from_url": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
# What runs code by its nature, and the one file that may use it: `load_exported` asks for trust before.
TRUSTED = {
    "torch.export.load": "convneur/export/torch_file.py",
    "torch._inductor.aoti_load_package": "convneur/export/torch_file.py",
    "convneur.export.torch_file": "convneur/export/formats.py",
    "convneur.export.torch_file.load_program": "convneur/export/formats.py",
    "convneur.export.torch_file.load_package": "convneur/export/formats.py",
}
SHORT = {"np": "numpy", "pd": "pandas"}  # what everybody calls them


def faults(text: str, file: str = "x.py") -> list[str]:
    """What in a source may run what is in a file, each as ``LINE: WHAT``."""
    tree = ast.parse(text)
    names = SHORT | _imported(tree)
    return [
        f"{getattr(node, 'lineno', 0)}: {what}"
        for node in ast.walk(tree)
        for what in (*_of_import(node, file), *_of_name(node, names, file), *_of_call(node, names))
    ]


def _imported(tree: ast.AST) -> dict[str, str]:
    """What names stand for in whole."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.asname: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return found


def _name(node: ast.AST, names: dict[str, str]) -> str:
    """A name in whole; what is before the last dot is left out if it is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, names)}.{node.attr}"
    return ""


def _is(name: str, known: str) -> bool:
    return name.endswith(known) if known.startswith(".") else name == known


def _of_import(node: ast.AST, file: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        given = [each.name for each in node.names if each.name != "pickle"]  # of which the uses are looked at
    elif isinstance(node, ast.ImportFrom):
        given = [f"{node.module}.{each.name}" for each in node.names]
    else:
        return
    yield from (f"import of {name}" for name in given if name.split(".")[0] in MODULES and name not in FINE)
    yield from (f"import of {name}" for name in given if file != TRUSTED.get(name, file))


def _of_name(node: ast.AST, names: dict[str, str], file: str) -> Iterator[str]:
    if not isinstance(node, (ast.Name, ast.Attribute)):
        return
    name = _name(node, names)
    if name.split(".")[0] in MODULES and "." in name and name not in FINE:
        yield f"use of {name}"
    if file != TRUSTED.get(name, file):
        yield f"use of {name} outside of {TRUSTED[name]}"
    for known, why in FORBIDDEN.items():
        if _is(name, known):
            yield f"use of {name}, which {why}"


def _of_call(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    name, given = _name(node.func, names), {each.arg: each.value for each in node.keywords}
    if name == "compile":  # others may be called so, too, and are not called by that name alone
        yield "compile makes code of text"
    for argument, bad in ARGUMENTS.items():
        if argument in given and not all(
            isinstance(each, ast.Constant) and each.value is not bad for each in _values(given[argument])
        ):
            yield f"{argument} of {name} may be {bad}"
    for known, (argument, needed) in REQUIRED.items():
        if _is(name, known) and getattr(given.get(argument), "value", None) is not needed:
            yield f"{name} without {argument}={needed}"


def _values(node: ast.expr) -> list[ast.expr]:
    """What an argument may be; what is not written out here may be anything."""
    return [*_values(node.body), *_values(node.orelse)] if isinstance(node, ast.IfExp) else [node]


SOURCES = sorted(SOURCE.rglob("*.py"))


def test_there_are_sources():
    assert len(SOURCES) > 100


def test_no_source_file_runs_what_it_reads():
    found = {
        str(file): wrong
        for file in SOURCES
        if (wrong := faults(file.read_text(encoding="utf-8"), file.relative_to(SOURCE).as_posix()))
    }
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(b'')",
        "import pickle\nload = pickle.Unpickler",
        "from pickle import loads",
        "from pickle import loads as UnpicklingError",
        "import dill",
        "import cloudpickle as c",
        "import marshal",
        "import shelve",
        "import joblib",
        "import jsonpickle",
        "import torch\ntorch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=flag)",
        "trainer.fit(task, weights_only=False)",
        "trainer.fit(task, weights_only=True if safe else False)",
        "from torch import load\nload(file)",
        "import torch as t\nt.load(file)",
        "import numpy as np\nnp.load(file)",
        "np.load(file, allow_pickle=True)",
        "import numpy\nnumpy.load(file, allow_pickle=flag)",
        "from numpy import load as read\nread(file)",
        "zarr.open(folder, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "from yaml import load\nload(text)",
        "yaml.unsafe_load(text)",
        "load_dataset(name, trust_remote_code=True)",
        "load_dataset(name, trust_remote_code=flag)",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "os.system('ls')",
        "from os import system\nsystem('ls')",
        "call = os.popen",
        "subprocess.run('ls', shell=True)",
        "import pandas as pd\npd.read_pickle(file)",
        "pandas.read_pickle(file)",
        "torch.hub.load(repository, name)",
        "from torch import hub\nhub.load(repository, name)",
        "torch.hub.load_state_dict_from_url(url)",
        "torch.jit.load(file)",
        "torch.export.load(file)",
        "from torch.export import load",
        "torch._inductor.aoti_load_package(file)",
        "from convneur.export.torch_file import load_program",
        "from convneur.export import torch_file",
        "from timm.models import load_state_dict\nload_state_dict(file)",
        "from timm.models import load_state_dict as read\nread(file, weights_only=False)",
        "import timm\ntimm.models.load_checkpoint(model, file)",
        "options.register_custom_ops_library(file)",
        "core().add_extension(file)",
    ],
)
def test_each_of_these_would_be_found(text):
    assert faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\ntry:\n    ...\nexcept pickle.UnpicklingError:\n    ...",
        "from pickle import UnpicklingError",
        "torch.load(file, map_location='cpu', weights_only=True)",
        "trainer.fit(task, weights_only=True if checkpoint else None)",
        "np.load(file, mmap_mode='r', allow_pickle=False)",
        "yaml.safe_load(text)",
        "model.eval()",
        "torch.compile(model)",
        "re.compile(pattern)",
        "model.load_state_dict(weights)",
        "subprocess.run(['ls'], shell=False)",
        "from timm.models import load_state_dict\nload_state_dict(file, weights_only=True)",
    ],
)
def test_none_of_these_would(text):
    assert not faults(text)
