"""From an LSRL program to the weights of a stack of `GatedReLURNN` layers that computes the same."""

import math

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError
from resurge.layers import GatedReLURNN
from resurge.lsrl.language import Atom, Expr, Input, Product, Program, ReLU, State, eigenbasis, operands

_VANISHED = 1e3  # ν of λ = 0: exp(-ν) is zero in float64


class CompiledProgram(nn.Module):
    """A stack of recurrent layers and a linear head, with the weights of a program.

    As a layer does, it takes sequences whole, in pieces with a state, and with resets; the state is a tuple of the
    states of its layers. The weights are float64: a select without gates needs more digits than float32 has.
    """

    def __init__(self, d_input: int, layers: list[GatedReLURNN], head: nn.Linear) -> None:
        super().__init__()
        self.d_input, self.layers, self.head = d_input, nn.ModuleList(layers), head

    def forward(
        self, x: Tensor, state: tuple[object, ...] | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[object, ...]]:
        """Outputs (B, T, n) and the state after the last step, for x (B, T, d).

        Raises:
            ResurgeError: inputs of another shape, or a state that is not this program's.
        """
        if x.dim() != 3 or x.shape[2] != self.d_input or 0 in x.shape:
            raise ResurgeError(f"x must have shape (B, T, {self.d_input}), and has {tuple(x.shape)}")
        if state is not None and len(state) != len(self.layers):
            raise ResurgeError(f"the state must have {len(self.layers)} parts, one a layer, and has {len(state)}")
        x = x.to(self.head.weight.dtype)
        x = nn.functional.pad(x, (0, self.head.in_features - x.shape[2]))
        after = []
        for k, layer in enumerate(self.layers):
            x, last = layer(x, None if state is None else state[k], reset=reset)
            after.append(last)
        return self.head(x), tuple(after)


def compile_program(program: Program) -> CompiledProgram:
    """The layers that compute `program`, in float64.

    Each atom is computed in the first layer where its operands are at hand: a state from what enters the layer, a ReLU
    or product also from the states of the same layer. What is needed further up is passed on by the layer's linear
    path, in channels that are given anew after the last use. d_model is the largest number of channels in use at once.
    """
    return _Compilation(program).compiled()


class _Compilation:
    """Where the atoms of a program are: `level`, the layer that computes each, and `slots`, its channel between layers.

    Level 0 is the input; `slots[k]` tells where what layer k hands on begins.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.level: dict[Atom, int] = {program.input: 0}
        for atom in program.atoms:
            if not isinstance(atom, Input):
                below = [dep for expr in operands(atom) for dep in expr.terms]
                at_hand = [self.level[d] + (isinstance(atom, State) or not isinstance(d, State)) for d in below]
                self.level[atom] = max(at_hand, default=1)
        self.depth = max(1, *self.level.values())
        last_use = dict.fromkeys(self.level, 0)
        for atom in program.atoms:
            for dep in (dep for expr in operands(atom) for dep in expr.terms):
                if not self._within(dep, self.level[atom]) or isinstance(atom, State):
                    last_use[dep] = max(last_use[dep], self.level[atom])
        last_use |= dict.fromkeys(program.output.terms, self.depth + 1)
        self.slots: list[dict[Atom, int]] = []
        widths = [program.input.dim]
        for k in range(self.depth + 1):
            live = [atom for atom in self.level if self.level[atom] <= k < last_use[atom]]
            ends = torch.tensor([0, *(atom.dim for atom in live)]).cumsum(0).tolist()
            self.slots.append(dict(zip(live, ends[:-1], strict=True)))
            widths.append(ends[-1])
        self.width = max(widths)

    def _within(self, atom: Atom, k: int) -> bool:
        """Whether layer k reads the atom from its own states."""
        return isinstance(atom, State) and self.level[atom] == k

    def compiled(self) -> CompiledProgram:
        layers = [self._layer(k) for k in range(1, self.depth + 1)]
        output = self.program.output
        head = nn.Linear(self.width, output.dim, dtype=torch.float64).requires_grad_(False)
        _set(head, self._over_stream(output, self.depth), output.bias)
        return CompiledProgram(self.program.input.dim, layers, head.requires_grad_())

    def _over_stream(self, expr: Expr, k: int) -> Tensor:
        """The matrix (dim, width) of an expression over what layer k hands on, states within layer k + 1 left out."""
        matrix = torch.zeros(expr.dim, self.width, dtype=torch.float64)
        for atom, part in expr.terms.items():
            if not self._within(atom, k + 1):
                start = self.slots[k][atom]
                matrix[:, start : start + atom.dim] = part
        return matrix

    def _layer(self, k: int) -> GatedReLURNN:
        states = [a for a in self.program.atoms if isinstance(a, State) and self.level[a] == k]
        hidden = [a for a in self.program.atoms if isinstance(a, ReLU | Product) and self.level[a] == k]
        N = sum(atom.dim for atom in states)
        G = sum(atom.dim * (1 + isinstance(atom, Product)) for atom in hidden)
        layer = GatedReLURNN(self.width, max(N, 1), max(G, 1)).double().requires_grad_(False)
        for parameter in layer.parameters():
            parameter.zero_()
        layer.nu_log.fill_(math.log(_VANISHED))
        read = self._states(layer, states, k)

        def over(expr: Expr) -> Tensor:
            """An expression over v = [Re h, Im h, x]."""
            of_states = sum(
                (part @ read[a] for a, part in expr.terms.items() if a in read),
                start=torch.zeros(expr.dim, 2 * layer.d_state, dtype=torch.float64),
            )
            return torch.cat([of_states, self._over_stream(expr, k - 1)], 1)

        g = 0
        for atom in hidden:
            n, slot = atom.dim, self.slots[k][atom]
            signs = (1, -1) if isinstance(atom, Product) else (1,)
            for sign in signs:  # p q = ReLU(p) q - ReLU(-p) q
                rows = slice(g, g + n)
                _set(layer.W_1, sign * over(atom.x), sign * atom.x.bias, rows)
                if isinstance(atom, Product):
                    _set(layer.W_2, over(atom.y), atom.y.bias, rows)
                else:
                    layer.W_2.bias[rows] = 1
                layer.W_o.weight[slot : slot + n, rows] = sign * torch.eye(n, dtype=torch.float64)
                g += n
        for kept, slot in self.slots[k].items():
            if kept not in hidden:
                eye = Expr({kept: torch.eye(kept.dim, dtype=torch.float64)}, torch.zeros(kept.dim))
                layer.C.weight[slot : slot + kept.dim] = over(eye)
        return layer.requires_grad_()

    def _states(self, layer: GatedReLURNN, states: list[State], k: int) -> dict[Atom, Tensor]:
        """Set the recurrence, in eigenbases, and give the matrix (dim, 2 N) of each state over [Re h, Im h]."""
        read: dict[Atom, Tensor] = {}
        N, start = layer.d_state, 0
        for atom in states:
            units = slice(start, start + atom.dim)
            lam, P = eigenbasis(atom.A)
            inverse = torch.linalg.inv(P)
            nu = -torch.log(lam.abs()).clamp(-_VANISHED, 0)
            layer.nu_log[units], layer.theta[units] = torch.log(nu), lam.angle()
            entering = torch.cat([self._over_stream(atom.x, k - 1), atom.x.bias[:, None], atom.init[:, None]], 1)
            for half, part in enumerate(torch.view_as_real(inverse @ entering.to(P.dtype)).unbind(-1)):
                rows = slice(half * N + start, half * N + start + atom.dim)
                layer.B.weight[rows], layer.B.bias[rows], layer.h0[half, units] = part[:, :-2], part[:, -2], part[:, -1]
            read[atom] = torch.zeros(atom.dim, 2 * N, dtype=torch.float64)
            read[atom][:, units], read[atom][:, N + start : N + start + atom.dim] = P.real, -P.imag
            start += atom.dim
        return read


def _set(linear: nn.Linear, weight: Tensor, bias: Tensor, rows: slice = slice(None)) -> None:
    linear.weight[rows], linear.bias[rows] = weight, bias
