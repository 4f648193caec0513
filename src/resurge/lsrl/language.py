"""LSRL, a small language for what a linear recurrence can compute: expressions, and what they mean.

A program says what happens at each step to the channels of a step. It is written as arithmetic on expressions:

    x = token(1)
    lead = state(2 * x - 1)              # a linear state: here, a running sum
    program = Program(x, step(lead))     # 1 while there have been more ones than zeros

There are five primitives: the input, affine maps, `relu`, products and `state`. An expression is an affine map of the
results of the other four, its atoms, so that maps of maps need no rule of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor

from resurge.errors import ResurgeError

Number = float | int
Operand = Union["Expr", Number]


@dataclass(frozen=True, eq=False)
class Input:
    """The channels of a step, as they come."""

    dim: int


@dataclass(frozen=True, eq=False)
class ReLU:
    """max(0, x)."""

    x: "Expr"

    @property
    def dim(self) -> int:
        return self.x.dim


@dataclass(frozen=True, eq=False)
class Product:
    """x ⊙ y."""

    x: "Expr"
    y: "Expr"

    @property
    def dim(self) -> int:
        return self.x.dim


@dataclass(frozen=True, eq=False)
class State:
    """s_t = A s_{t-1} + x_t, with s_0 given; its value is the new state s_t."""

    x: "Expr"
    A: Tensor
    init: Tensor

    @property
    def dim(self) -> int:
        return self.x.dim


Atom = Input | ReLU | Product | State


@dataclass(frozen=True, eq=False)
class Expr:
    """Σ_atoms M v + bias, a value of `dim` channels at each step. Made by `token`, `constant` and the operations.

    `+`, `-` and `*` take expressions of as many channels, or of one, and numbers; `*` of two expressions that are not
    constant is a product of the language. `x[i]`, `x[2:5]` and `x[[3, 0]]` choose channels.
    """

    terms: dict[Atom, Tensor]
    """The matrix (dim, atom.dim) of each atom."""
    bias: Tensor
    """(dim,)."""

    @property
    def dim(self) -> int:
        return len(self.bias)

    def __add__(self, other: Operand) -> "Expr":
        a, b = _alike(self, other, "+")
        terms = dict(a.terms)
        for atom, matrix in b.terms.items():
            terms[atom] = terms[atom] + matrix if atom in terms else matrix
        return Expr(terms, a.bias + b.bias)

    def __mul__(self, other: Operand) -> "Expr":
        a, b = _alike(self, other, "*")
        if not b.terms:
            return Expr({atom: b.bias[:, None] * matrix for atom, matrix in a.terms.items()}, b.bias * a.bias)
        if not a.terms:
            return b * a
        return _value(Product(a, b))

    def __neg__(self) -> "Expr":
        return self * -1

    def __sub__(self, other: Operand) -> "Expr":
        return self + -other

    def __rsub__(self, other: Number) -> "Expr":
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __getitem__(self, channels: int | slice | Sequence[int]) -> "Expr":
        rows = torch.arange(self.dim)
        try:
            rows = rows[channels] if isinstance(channels, (int, slice)) else rows[list(channels)]
        except IndexError as error:
            raise ResurgeError(f"an expression of {self.dim} channels has no channels {channels}") from error
        rows = rows.reshape(-1)
        if not len(rows):
            raise ResurgeError(f"an expression must have at least 1 channel, and [{channels}] leaves none")
        return Expr({atom: matrix[rows] for atom, matrix in self.terms.items()}, self.bias[rows])


def token(dim: int) -> Expr:
    """The input of a program: `dim` channels a step.

    Raises:
        ResurgeError: dim is below 1.
    """
    if dim < 1:
        raise ResurgeError(f"a token must have at least 1 channel, and has {dim}")
    return _value(Input(dim))


def constant(values: Sequence[float] | Tensor) -> Expr:
    """The same numbers at every step."""
    return Expr({}, _numbers("the values of a constant", values, 1))


def linear(A: Sequence[Sequence[float]] | Tensor, x: Expr) -> Expr:
    """A x.

    Raises:
        ResurgeError: a matrix that does not fit x, or holds numbers that are not finite.
    """
    A = _numbers("A", A, 2)
    if A.shape[1] != x.dim:
        raise ResurgeError(f"A must have shape (n, {x.dim}) for an expression of {x.dim}, and has {tuple(A.shape)}")
    return Expr({atom: A @ matrix for atom, matrix in x.terms.items()}, A @ x.bias)


def concat(parts: Iterable[Expr]) -> Expr:
    """The channels of all parts, one part after the other."""
    parts = list(parts)
    if not parts:
        raise ResurgeError("concat needs at least one expression, and was given none")
    ends = torch.tensor([part.dim for part in parts]).cumsum(0).tolist()
    place = torch.eye(ends[-1], dtype=torch.float64)
    total = constant(torch.zeros(ends[-1], dtype=torch.float64))
    for part, end in zip(parts, ends, strict=True):
        total = total + linear(place[:, end - part.dim : end], part)
    return total


def relu(x: Expr) -> Expr:
    """max(0, x)."""
    return _value(ReLU(x))


def state(
    x: Expr, A: Sequence[Sequence[float]] | Tensor | None = None, *, init: Sequence[float] | Tensor | None = None
) -> Expr:
    """The linear state s_t = A s_{t-1} + x_t, new value included.

    Args:
        x: what enters at each step.
        A: square, of as many rows as x has channels; None is the identity, a running sum. Its eigenvalues lie in the
            closed unit disk, and it can be diagonalised: a program must not grow without bound, and becomes a diagonal
            recurrence.
        init: s_0; None is zero.

    Raises:
        ResurgeError: shapes that do not fit, an eigenvalue outside the unit disk, or a matrix without an eigenbasis.
    """
    n = x.dim
    A = torch.eye(n, dtype=torch.float64) if A is None else _numbers("A", A, 2)
    init = torch.zeros(n, dtype=torch.float64) if init is None else _numbers("init", init, 1)
    if A.shape != (n, n) or init.shape != (n,):
        raise ResurgeError(
            f"a state of {n} channels needs A of shape ({n}, {n}) and init of ({n},), "
            f"and was given {tuple(A.shape)} and {tuple(init.shape)}"
        )
    eigenvalues, P = eigenbasis(A)
    radius = float(eigenvalues.abs().max())
    if radius > 1 + 1e-9:
        raise ResurgeError(f"the eigenvalues of A must lie in the unit disk, and one has modulus {radius:g}")
    if not float(torch.linalg.cond(P)) < 1e6:
        raise ResurgeError("A must have an eigenbasis, and this one cannot be diagonalised")
    return _value(State(x, A, init))


def eigenbasis(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues Λ (n,) and eigenvectors P (n, n), complex, with A = P diag(Λ) P⁻¹; P = I if A is diagonal."""
    if torch.equal(A, torch.diag(A.diagonal())):
        return A.diagonal().to(torch.complex128), torch.eye(len(A), dtype=torch.complex128)
    eigenvalues, vectors = torch.linalg.eig(A)
    return eigenvalues, vectors


class Program:
    """What becomes of a sequence: at each step, `output` as an expression in `inputs` and in states.

    Args:
        inputs: made by `token`.
        output: made from it.

    Raises:
        ResurgeError: inputs that are no token, or an output that depends on another token.
    """

    def __init__(self, inputs: Expr, output: Expr) -> None:
        atoms = list(inputs.terms)
        if len(atoms) != 1 or not isinstance(atoms[0], Input) or inputs.dim != atoms[0].dim:
            raise ResurgeError("the inputs of a program must be a token, as `token` makes it")
        self.input, self.output = atoms[0], output
        self.atoms = _ordered(output)
        """What the output depends on, each after everything that it depends on itself."""
        if any(isinstance(atom, Input) and atom is not self.input for atom in self.atoms):
            raise ResurgeError("the output depends on a token that is not the program's input")

    def interpret(self, x: Tensor) -> Tensor:
        """The outputs (B, T, n) for x (B, T, d), step by step as the language says, in float64.

        Raises:
            ResurgeError: inputs of another shape.
        """
        if x.dim() != 3 or x.shape[2] != self.input.dim or 0 in x.shape:
            raise ResurgeError(f"x must have shape (B, T, {self.input.dim}), and has {tuple(x.shape)}")
        values: dict[Atom, Tensor] = {
            atom: atom.init.expand(len(x), -1) for atom in self.atoms if isinstance(atom, State)
        }
        outputs = []
        for x_t in x.double().unbind(1):
            for atom in self.atoms:
                match atom:
                    case Input():
                        values[atom] = x_t
                    case ReLU():
                        values[atom] = torch.relu(_evaluate(atom.x, values, x_t))
                    case Product():
                        values[atom] = _evaluate(atom.x, values, x_t) * _evaluate(atom.y, values, x_t)
                    case State():
                        values[atom] = values[atom] @ atom.A.T + _evaluate(atom.x, values, x_t)
            outputs.append(_evaluate(self.output, values, x_t))
        return torch.stack(outputs, 1)


def operands(atom: Atom) -> tuple[Expr, ...]:
    """The expressions that an atom is made from."""
    match atom:
        case Input():
            return ()
        case Product():
            return atom.x, atom.y
        case _:
            return (atom.x,)


def _ordered(output: Expr) -> list[Atom]:
    found: dict[Atom, None] = {}

    def visit(atom: Atom) -> None:
        if atom not in found:
            for expr in operands(atom):
                for below in expr.terms:
                    visit(below)
            found[atom] = None

    for atom in output.terms:
        visit(atom)
    return list(found)


def _evaluate(expr: Expr, values: dict[Atom, Tensor], x_t: Tensor) -> Tensor:
    total = expr.bias.expand(len(x_t), -1)
    for atom, matrix in expr.terms.items():
        total = total + values[atom] @ matrix.T
    return total


def _value(atom: Atom) -> Expr:
    eye = torch.eye(atom.dim, dtype=torch.float64)
    return Expr({atom: eye}, torch.zeros(atom.dim, dtype=torch.float64))


def _alike(a: Expr, b: Operand, sign: str) -> tuple[Expr, Expr]:
    """Both operands as expressions of as many channels: one channel stands for all."""
    b = b if isinstance(b, Expr) else constant([b])
    if a.dim != b.dim and 1 not in (a.dim, b.dim):
        raise ResurgeError(
            f"the two sides of {sign} must have as many channels, or one of them 1, and have {a.dim} and {b.dim}"
        )
    n = max(a.dim, b.dim)
    return (a if a.dim == n else a[[0] * n]), (b if b.dim == n else b[[0] * n])


def _numbers(name: str, values: Sequence[float] | Sequence[Sequence[float]] | Tensor, dims: int) -> Tensor:
    tensor = torch.as_tensor(values).to("cpu", torch.float64)
    if tensor.dim() != dims or 0 in tensor.shape:
        kind = "a list of numbers" if dims == 1 else "a matrix"
        raise ResurgeError(f"{name} must be {kind}, and has shape {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ResurgeError(f"{name} must be finite, and holds {tensor[~torch.isfinite(tensor)][0]:g}")
    return tensor
