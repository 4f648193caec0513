"""Nested values in one safetensors file: tensors by their path, all the rest as JSON in the header. No pickle, ever."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resurge.errors import ResurgeError
from resurge.files import write_atomic

# One key only: safetensors writes several in random order, and equal weights shall be equal files.
_KEY = "resurge"


def pack(value: Any) -> bytes:
    """The bytes of a safetensors file that holds `value`: dicts, lists, tuples, plain values and tensors, nested."""
    tensors: dict[str, Tensor] = {}
    tree = _encode(value, "", tensors)
    return save(tensors, {_KEY: json.dumps(tree)})


def write(path: Path, value: Any) -> None:
    """Write `value` to `path`, whole or not at all.

    Raises:
        ResurgeError: the disk is full, or the folder cannot be written to.
    """
    write_atomic(path, pack(value))


def read(path: Path, device: str = "cpu") -> Any:
    """What `write` wrote to `path`.

    Raises:
        ResurgeError: there is no such file, or it is something else: truncated or damaged, a pickle, another
            program's file.
    """
    try:
        with safe_open(path, "pt", device=device) as file:
            tree = (file.metadata() or {}).get(_KEY)
            if tree is None:
                raise ResurgeError(f"{path} is a safetensors file that resurge did not write")
            # a copy: the file is mapped into memory, and what maps it may be written over or be taken away
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ResurgeError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise ResurgeError(f"{path} is not a safetensors file: {_what(path) or error}") from error
    try:
        return _decode(json.loads(tree), tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise ResurgeError(f"{path} is damaged: its header does not describe what it holds") from error


def _what(path: Path) -> str:
    """What a file that is no safetensors file is instead, as far as its first bytes tell."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
        size = path.stat().st_size
    except OSError:
        return ""
    if not start:
        return "it is empty"
    if start[8:9] == b"{":
        return f"it is truncated, or not all of its {size} bytes are its own"
    if start.startswith(b"PK\x03\x04"):
        return "it is a zip archive, such as torch.save writes, and may hold a pickle, which is never read"
    if start[:1] == b"\x80" and start[1] < 6:
        return "it is a pickle, which is never read"
    return ""


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of `value`: containers become tagged lists, so that keys and tuples keep their types."""
    if isinstance(value, Tensor):
        while path in tensors:  # {"a.b": ...} beside {"a": {"b": ...}}
            path += "'"
        # a clone: two names may share memory, which safetensors refuses
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return ["tensor", path]
    if isinstance(value, dict):
        items = [[key, _encode(part, f"{path}.{key}" if path else str(key), tensors)] for key, part in value.items()]
        for key, _ in items:
            if not isinstance(key, (str, int)):
                raise TypeError(f"a key of '{path}' is {type(key).__name__}; only str and int can be kept")
        return ["dict", items]
    if isinstance(value, (list, tuple)):
        tag = "list" if isinstance(value, list) else "tuple"
        return [tag, [_encode(part, f"{path}.{i}" if path else str(i), tensors) for i, part in enumerate(value)]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"'{path}' is {type(value).__name__}, which cannot be kept")


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(tree, list):
        return tree
    tag, parts = tree
    if tag == "tensor":
        return tensors[parts]
    if tag == "dict":
        return {key: _decode(part, tensors) for key, part in parts}
    decoded = [_decode(part, tensors) for part in parts]
    return decoded if tag == "list" else tuple(decoded)


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a model's state dict as a plain safetensors file, names as in the model."""
    write_atomic(path, save({name: t.detach().to("cpu", copy=True).contiguous() for name, t in weights.items()}))


def read_weights(path: Path, model: torch.nn.Module) -> None:
    """Load the weights in `path` into `model`.

    Raises:
        ResurgeError: no such file, no safetensors file, or the weights of another architecture; then the first name
            or shape that differs is given.
    """
    try:
        with safe_open(path, "pt") as file:
            given = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ResurgeError(f"{path} does not exist: no weights were kept yet") from error
    except (SafetensorError, OSError) as error:
        raise ResurgeError(f"{path} is not a safetensors file: {_what(path) or error}") from error
    check_weights(path, given, model)
    model.load_state_dict(given)


def check_weights(path: Path, given: dict[str, Tensor], model: torch.nn.Module) -> None:
    """Refuse weights that are not those of `model`.

    Raises:
        ResurgeError: a name or shape differs; the first that does is given, and `path`, where they come from.
    """
    expected = model.state_dict()
    for name in expected:
        if name not in given:
            raise ResurgeError(f"{path} holds another architecture: it has no '{name}'")
    for name in given:
        if name not in expected:
            raise ResurgeError(f"{path} holds another architecture: its '{name}' is not in the model")
        if given[name].shape != expected[name].shape:
            raise ResurgeError(
                f"{path} holds another architecture: '{name}' has shape {tuple(given[name].shape)}, "
                f"and {tuple(expected[name].shape)} was expected"
            )
