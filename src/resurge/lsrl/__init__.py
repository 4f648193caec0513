"""A small language for what linear recurrences can compute, compiled to their weights: see `language`.

Source: "Universal In-Context Approximation By Prompting Fully Recurrent Models", arXiv 2406.01424.
"""

from resurge.lsrl.compiler import CompiledProgram, compile_program
from resurge.lsrl.language import Expr, Program, concat, constant, linear, relu, state, token

__all__ = [
    "CompiledProgram",
    "Expr",
    "Program",
    "compile_program",
    "concat",
    "constant",
    "linear",
    "relu",
    "state",
    "token",
]
