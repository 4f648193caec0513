"""The command line, thin: it parses, calls and prints. `resurge --help` lists the commands."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import resurge
from resurge.errors import ResurgeError, unknown

_EXAMPLES = """\
Examples:
  resurge fit lru/digits                          train; the run is kept in runs/lru-digits-0
  resurge fit lru/digits --lr 3e-3 --depth 2      any setting can be given: resurge fit lru/digits --help
  resurge compare lru/digits --layers lru,gru     the same recipe with other layers, side by side
  resurge evaluate runs/lru-digits-0 --json       measure it on its test data
  resurge report runs/lru-digits-0                one HTML page with everything to see
  resurge predict runs/lru-digits-0 - < values    stream values from standard input
  resurge generate runs/lru-text-0 --prompt 'def '
  resurge verify lru                              is the paper's claim true here?

resurge COMMAND --help tells more. Exit code 0: done; 1: a claim does not hold; 2: something given is wrong."""


def commands() -> dict[str, Any]:
    """The commands by name, each a `Command`."""
    from resurge.cli import about, compare, runs, serving

    classes: list[Any] = [runs.Fit, compare.Compare, runs.Evaluate, runs.Report, serving.Predict, serving.Generate]
    classes += [about.Systems, about.Verify, about.Data, about.Info, about.Completion]
    return {command.NAME: command for command in classes}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Whatever is wrong with what was given is told in one line on stderr."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except ResurgeError as error:
        return _refuse(str(error))
    except KeyboardInterrupt as stop:
        print(f"resurge: {stop}" if str(stop) else "", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has had enough; what Python still wants to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        if (error.name or "resurge").startswith("resurge"):
            raise
        return _refuse(f"package '{error.name}' is not installed; pip install 'resurge[train]' brings all of them")
    except MemoryError as error:
        return _refuse(f"out of memory {error}".strip())
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return _refuse(f"out of memory: {str(error).splitlines()[0]}")
    except OSError as error:
        if error.errno is None:
            raise
        place = f": {error.filename}" if error.filename else ""
        hint = "; free some and try again, --resume continues a run" if error.errno == errno.ENOSPC else ""
        return _refuse(f"{(error.strerror or str(error)).lower()}{place}{hint}")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch could not get memory; on a CPU it says so in words alone."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"resurge {resurge.__version__}")
        return 0
    name, rest = words[0], words[1:]
    known = commands()
    if name not in known:
        raise unknown("command", name, known)
    try:
        command = known[name].parse(rest)
    except SystemExit:  # the help was asked for, and printed
        print("\n".join(["", "Examples:", *(f"  {line}" for line in known[name].EXAMPLES)]))
        return 0
    code: int = command.run()
    return code


def _overview() -> str:
    lines = ["usage: resurge COMMAND ...", "", resurge.__doc__ or "", "", "Commands:"]
    for name, command in commands().items():
        lines.append(f"  {name:<11} {command.__doc__.splitlines()[0]}")
    return "\n".join([*lines, "", _EXAMPLES])


def _refuse(message: str) -> int:
    print(f"resurge: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
