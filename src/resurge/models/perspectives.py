"""Multiple temporal perspectives: copies of one RWKV-4 stack that differ in how they mix a step with the one before."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resurge.errors import ResurgeError, at_least
from resurge.models.language import LanguageModel
from resurge.models.stack import Blocks, StackState
from resurge.paper import Paper
from resurge.state import check, map_tensors


class Perspectives(Blocks):
    r"""P copies of one stack, of which only the vectors of the token shift are P, and their mixture.

        x_p = Norm(blocks(x; μ_p))       p = 1 ... P: all matrices, decays and norms are shared
        α = softmax(W_c mean_p(x_p))     W_c (P, D), no bias
        y = Σ_p α_p x_p

    A head that is a linear map, with a bias or without, makes of y the mixture Σ_p α_p head(x_p) of logits that the
    paper has, since α sums to 1. The copies go through the blocks as rows of one batch. P = 1 is the stack and its norm
    as they were, to the bit, and has the same parameters but for W_c.

    Args:
        blocks: the stack, of RWKV-4's layers; it is taken over, and its shift vectors μ (1, 1, D) become (P, 1, D).
        norm: the norm of the stack's outputs, taken over as well: the language model around has none.
        perspectives: P.
        noise: standard deviation of what is added to the μ of all perspectives but the first. At 0, as in the published
            code, all start alike, and grow apart by W_c alone, which starts as `torch.nn.Linear` does.

    State: P times that of the stack, (B, P, ...). Cost: P times that of the stack. Parameters more than the stack's:
    5 (P - 1) D a layer of RWKV-4, and P D.

    Raises:
        ResurgeError: P below 1, negative noise, or a layer without shift vectors, or with more than one perspective.

    Source: "Enhancing Transformer RNNs with Multiple Temporal Perspectives", arXiv 2402.02625.
    """

    PAPER = Paper(
        "temporal_rnn",
        "Enhancing Transformer RNNs with Multiple Temporal Perspectives",
        "Razvan-Gabriel Dumitru and Darius Peteleaza and Mihai Surdeanu",
        2024,
        "2402.02625",
    )

    def __init__(self, blocks: Blocks, norm: nn.Module, perspectives: int = 4, *, noise: float = 0.0) -> None:
        at_least(1, {"perspectives": perspectives})
        at_least(0, {"noise": noise})
        super().__init__(blocks.blocks)  # type: ignore[arg-type]
        self.perspectives = perspectives
        for block in self.blocks:
            mixes = dict(_mixes(block))
            if not mixes or any(mu.shape[0] != 1 for mu in mixes.values()):
                found = {name: tuple(mu.shape) for name, mu in mixes.items()}
                raise ResurgeError(
                    f"blocks must be around RWKV-4's layers, with shift vectors time_mix_* of shape"
                    f" (1, 1, {self.d_model}), and a {type(block.mixer).__name__} has {found or 'none'}"
                )
            for name, mu in mixes.items():
                several = mu.detach().repeat(perspectives, 1, 1)
                several[1:] += noise * torch.randn_like(several[1:])
                block.mixer.register_parameter(name, nn.Parameter(several, mu.requires_grad))  # type: ignore[union-attr]
        self.norm = norm
        own = next(self.parameters())
        self.W_c = nn.Linear(self.d_model, perspectives, bias=False, device=own.device, dtype=own.dtype)

    def initial_state(self, batch_size: int) -> StackState:
        state: StackState = map_tensors(self._apart, super().initial_state(batch_size * self.perspectives))
        return state

    def own_parameters(self) -> list[nn.Parameter]:
        """What the perspectives do not share, and what mixes them: every μ, and W_c."""
        mixes = [mu for block in self.blocks for _, mu in _mixes(block)]
        return [*mixes, *self.W_c.parameters()]

    def _apart(self, rows: Tensor) -> Tensor:
        """(B P, ...) as (B, P, ...)."""
        apart: Tensor = rows.unflatten(0, (-1, self.perspectives))
        return apart

    def _together(self, block: Any, state: Any, rows: int) -> Any:
        """A block's state (B, P, ...) as (B P, ...)."""
        like = block.mixer.initial_state(rows, device=torch.device("meta"))
        check(state, map_tensors(self._apart, like), type(block.mixer).__name__)
        return map_tensors(lambda part: part.flatten(0, 1), state)

    def _run(
        self, x: Tensor, state: StackState | None, valid: Tensor | None, reset: Tensor | None, dt: Tensor | None
    ) -> tuple[Tensor, StackState]:
        B, P = len(x), self.perspectives
        x = x.repeat_interleave(P, 0)
        valid, reset, dt = (None if v is None else v.repeat_interleave(P, 0) for v in (valid, reset, dt))
        states = []
        for i, block in enumerate(self.blocks):
            before = None if state is None else self._together(block, state[i], B * P)
            mixes = {f"mixer.{name}": mu.repeat(B, 1, 1) for name, mu in _mixes(block)}  # row b P + p has its own μ_p
            x, after = functional_call(block, mixes, (x, before), {"valid": valid, "reset": reset, "dt": dt})
            states.append(map_tensors(self._apart, after))
        x = self._apart(self.norm(x))
        alpha = torch.softmax(self.W_c(x.mean(1)), -1)
        return torch.einsum("btp,bptd->btd", alpha, x), tuple(states)


def _mixes(block: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """The shift vectors of a block's layer by name."""
    return ((name, mu) for name, mu in block.mixer.named_parameters() if name.startswith("time_mix_"))


def with_perspectives(model: LanguageModel, perspectives: int = 4, *, noise: float = 0.0) -> LanguageModel:
    """A copy of a trained RWKV-4 language model that sees from `perspectives` perspectives, all starting as its own.

    Args:
        model: its head is a linear map.
        perspectives, noise: as in `Perspectives`.
    """
    model = copy.deepcopy(model)
    stack = Perspectives(model.stack, model.norm, perspectives, noise=noise)
    return LanguageModel(model.vocabulary, stack, embedding=model.embedding, norm=nn.Identity(), head=model.head)


def freeze_trunk(model: LanguageModel, *, head: bool = False) -> None:
    """Leave to training what a model has for its perspectives, every μ and W_c, and on request its head.

    Raises:
        ResurgeError: the model's stack has no perspectives.
    """
    if not isinstance(model.stack, Perspectives):
        raise ResurgeError(f"the model's stack must be one of Perspectives, and is a {type(model.stack).__name__}")
    model.requires_grad_(False)
    for parameter in [*model.stack.own_parameters(), *(model.head.parameters() if head else ())]:
        parameter.requires_grad_(True)
