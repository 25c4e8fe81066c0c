"""What CuPy offers, and with which parameters: the table, the check of a call against it, and the script that made it.

    python tests/cupy_signatures.py

writes fixtures/cupy_signatures.json from the installed CuPy; no GPU is needed. The stand-in refuses what is not in this
table, so that a call that the real CuPy would refuse fails in the tests of a machine without a GPU, too. One line a
name: its parameters as one string, with ``/``, ``*`` and ``**kwargs`` as Python has them; null where they are not known
and cannot be checked.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "fixtures" / "cupy_signatures.json"
TABLE: dict[str, str | None] = json.loads(FILE.read_text()) if FILE.exists() else {}
UFUNC = "*args out dtype casting"  # what `cupy.ufunc.__call__` looks for among its keywords
NAMESPACES = [  # modules and classes whose public names are listed; "" is cupy itself
    *("", "ndarray", "ElementwiseKernel", "ReductionKernel", "linalg", "random", "random.Generator", "cuda"),
    *("cuda.runtime", "cuda.memory", "cuda.stream", "cuda.Stream", "cuda.Event", "cuda.Device", "cuda.Graph"),
    "cuda.MemoryPool",
]


def bind(name: str, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by the names of the real function's parameters, or the TypeError with which it would answer."""
    words = (TABLE[name] or "*args **kwargs").split()
    if "**kwargs" not in words:
        for key in kwargs:
            if key not in words:
                raise TypeError(f"cupy.{name}() got an unexpected keyword argument {key!r}")
    first_star = next((k for k, word in enumerate(words) if word.startswith("*")), len(words))
    positional = [word for word in words[:first_star] if word != "/"]
    if len(args) > len(positional) and not any(word[0] == "*" and word[1:2] not in ("", "*") for word in words):
        raise TypeError(f"cupy.{name}() takes {len(positional)} positional arguments but {len(args)} were given")
    return dict(zip(positional, args, strict=False)) | kwargs


def from_docstring(doc: str) -> str | None:
    """The parameters in ``name(type a, b=default, *args)``, the first line of a docstring that Cython has written."""
    found = re.match(r"\s*[\w.]+\((.*)\)(\s*->.*)?$", (doc or "").strip().split("\n")[0])
    if not found:
        return None
    parts, depth = [""], 0
    for character in found[1]:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return " ".join(part.split("=")[0].split()[-1] for part in parts if part.strip())


def parameters(thing: Any) -> str | None:
    """The parameters of something callable, or None if neither Python nor its docstring knows them."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return from_docstring(thing.__doc__)
    words, starred = [], False
    for name, p in signature.parameters.items():
        if p.kind is p.KEYWORD_ONLY and not starred:
            words.append("*")
        starred |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        words.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + name)
    return " ".join(words)


def of_ufunc(name: str, ufunc: Any) -> dict[str, str]:
    """A ufunc and those of its methods that do not end in a NotImplementedError (cupy/_core/_kernel.pyx)."""
    entries = {name: UFUNC, f"{name}.outer": "A B **kwargs"}
    works = {
        "at": ufunc._scatter_op is not None,
        "reduce": ufunc.name in ("cupy_add", "cupy_multiply"),
        "accumulate": ufunc.name in ("cupy_add", "cupy_multiply"),
        "reduceat": ufunc.name == "cupy_add",
    }
    for method, it_does in works.items():
        if it_does:
            entries[f"{name}.{method}"] = (parameters(getattr(ufunc, method)) or "").removeprefix("self ")
    return entries


def signatures() -> dict[str, str | None]:
    """The table for the installed CuPy."""
    import cupy

    table: dict[str, str | None] = {"__version__": cupy.__version__}
    for namespace in NAMESPACES:
        owner = cupy
        for part in filter(None, namespace.split(".")):
            owner = getattr(owner, part)
        if namespace:
            table[namespace] = parameters(owner) if callable(owner) else None  # `dir` does not name random.Generator
        for name in dir(owner):
            thing = getattr(owner, name, None)
            key = f"{namespace}.{name}".lstrip(".")
            if name.startswith("_") or name == "annotations":
                continue
            if isinstance(thing, cupy.ufunc):
                table |= of_ufunc(key, thing)
            elif callable(thing):
                table[key] = parameters(thing)
            elif namespace != "cuda.runtime" or name.startswith("streamCapture"):  # not its hundreds of constants
                table[key] = None
    return dict(sorted(table.items()))


if __name__ == "__main__":
    made = signatures()
    FILE.write_text(json.dumps(made, indent=0) + "\n")
    print(f"{FILE}: {len(made)} names of CuPy {made['__version__']}")
