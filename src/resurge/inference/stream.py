"""A model fed piece by piece, its state carried for as long as the data comes."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError
from resurge.layer import RecurrentLayer
from resurge.models import LanguageModel, SequenceClassifier
from resurge.state import where

if TYPE_CHECKING:
    from resurge.data.base import InputSpec

Numbers = Tensor | np.ndarray[Any, Any] | list[Any] | float
"""What can be turned into a tensor."""


class Stream:
    """Holds a model and the state of `batch_size` streams, and answers every step or piece at once.

    Feeding pieces of any length gives the outputs of the whole; memory does not depend on how much came before.
    The model is put in evaluation mode.

    Args:
        model: a classifier, regressor or language model whose layers are causal.
        batch_size: number of streams B that run side by side.
        spec: what a run remembers of its inputs (`load_run(...).spec`). With it, `push` takes raw values or tokens
            and makes of them what the model takes, as in training; without it, `push` takes that.

    Raises:
        ResurgeError: another module, one that needs the whole sequence (bidirectional), or a batch size below 1.

    For example:

        stream = Stream(model)
        for x_t in sensor:                     # d_input numbers a step
            scores = stream.push(x_t)          # for everything seen so far
        stream.reset()                         # a new sequence starts
    """

    def __init__(self, model: nn.Module, *, batch_size: int = 1, spec: "InputSpec | None" = None) -> None:
        if not isinstance(model, (SequenceClassifier, LanguageModel)):
            raise ResurgeError(f"model must be a classifier, regressor or language model, not {type(model).__name__}")
        if batch_size < 1:
            raise ResurgeError(f"batch_size must be at least 1, and is {batch_size}")
        for name, module in model.named_modules():
            if isinstance(module, RecurrentLayer) and not module.CAUSAL:
                raise ResurgeError(f"a model with a bidirectional layer ({name}) needs the whole sequence: no stream")
        self.model: SequenceClassifier | LanguageModel = model.eval()
        self.batch_size = batch_size
        self._tokens = isinstance(model, LanguageModel) or isinstance(model.encoder, nn.Embedding)
        parameter = next(model.parameters())
        self._like = torch.zeros((), device=parameter.device, dtype=torch.int64 if self._tokens else parameter.dtype)
        self._spec = spec
        self.state: Any = self._initial()

    @torch.inference_mode()
    def _initial(self) -> Any:
        return self.model.initial_state(self.batch_size)

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget everything that came before, in the rows where `rows` (B,) bool is true; None is all of them."""
        initial = self._initial()
        self.state = initial if rows is None else where(rows.to(self._like.device), initial, self.state)

    @torch.inference_mode()
    def push(self, x: Numbers, *, dt: Numbers | None = None) -> Tensor:
        """Feed one step or a piece; the outputs for everything seen so far.

        Args:
            x: values as one step (d,) of a single stream or (B, d), or a piece (B, T, d); tokens as one step, an int
                or (B,), or a piece (B, T).
            dt: the time since the step before, for models with a layer that takes it: for one step a number for a
                single stream or (B,), for a piece (B, T). None is 1.

        Returns:
            Classifiers and regressors: (B, n_outputs), after the last step given. Language models: the logits of the
            next token, (B, vocabulary) after a step, (B, T, vocabulary) after each token of a piece.
        """
        piece, is_step = self._piece(x)
        outputs: Tensor
        outputs, self.state = self.model(piece, self.state, dt=self._times(dt))
        return outputs[:, 0] if is_step and outputs.dim() == 3 else outputs

    @torch.inference_mode()
    def push_each(self, x: Numbers, *, dt: Numbers | None = None) -> Tensor:
        """Feed a piece as `push` does; the outputs after each of its steps, (B, T, n_outputs).

        The same as pushing its steps one by one, several times faster: the layers run once over the piece, and only
        what a classifier sums up over time is done step by step.
        """
        piece, _ = self._piece(x)
        if isinstance(self.model, LanguageModel):
            return self.push(piece, dt=dt)
        y, blocks = self.model.stack(self.model.encoder(piece), self.state.blocks, dt=self._times(dt))
        valid = torch.ones(self.batch_size, 1, dtype=torch.bool, device=y.device)
        pool, summaries = self.state.pool, []
        for t in range(y.shape[1]):
            summary, pool = self.model.pool(y[:, t : t + 1], pool, valid, None)
            summaries.append(summary)
        self.state = type(self.state)(blocks, pool)
        outputs: Tensor = self.model.head(torch.stack(summaries, 1))
        return outputs

    def _piece(self, x: Any) -> tuple[Tensor, bool]:
        """x as the model takes it, (B, T) tokens or (B, T, d) values, and whether it was given as a single step."""
        try:
            # Python's numbers have 64 bits, and values with a large mean need them until it is taken off
            plain = not self._tokens and not isinstance(x, (Tensor, np.ndarray))
            given = torch.as_tensor(x, dtype=torch.float64 if plain else None)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ResurgeError(f"a step must be numbers, and is {type(x).__name__}: {error}") from error
        if self._tokens and (given.is_floating_point() or given.is_complex()):
            raise ResurgeError(f"this model takes integer tokens, and was given {given.dtype}")
        piece, full = given, 2 if self._tokens else 3
        is_step = piece.dim() < full
        if piece.dim() == full - 2 and self.batch_size == 1:
            piece = piece[None]
        if piece.dim() == full - 1:
            piece = piece[:, None]
        if piece.dim() != full or piece.shape[0] != self.batch_size or 0 in piece.shape:
            B = self.batch_size
            wanted = f"({B},) or ({B}, T)" if self._tokens else f"({B}, d) or ({B}, T, d)"
            raise ResurgeError(f"a step or piece must have shape {wanted}, T >= 1, and has {tuple(given.shape)}")
        if not self._tokens:
            self._check_width(piece)
        inputs = piece if self._spec is None else self._spec.inputs(piece.cpu())
        return inputs.to(self._like), is_step

    def _times(self, dt: Numbers | None) -> Tensor | None:
        """dt with as many axes as the model takes; a number for each row is one for each row's only step."""
        if dt is None:
            return None
        wide = next(self.model.parameters()).dtype == torch.float64
        try:
            times = torch.as_tensor(dt, dtype=torch.float64 if wide else torch.float32, device=self._like.device)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ResurgeError(f"dt must be numbers, and is {type(dt).__name__}: {error}") from error
        return times.reshape(-1, 1) if times.dim() < 2 else times

    def _check_width(self, piece: Tensor) -> None:
        width = getattr(getattr(self.model, "encoder", None), "in_features", piece.shape[-1])
        if piece.shape[-1] != width:
            raise ResurgeError(f"a step must have {width} values, and has {piece.shape[-1]}")
