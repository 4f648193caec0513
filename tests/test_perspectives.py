"""Multiple temporal perspectives: the paper's equations spelt out, RWKV-4 as the case of one, and all forms alike."""

import math

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from resurge import ResurgeError
from resurge.inference import Stream, generate
from resurge.layer import param_groups
from resurge.layers import LRU
from resurge.models import LanguageModel, Perspectives, Stack, freeze_trunk, rwkv4, with_perspectives
from resurge.paper import cite
from resurge.recipes.trial import minimise
from resurge.state import named_tensors, nbytes, select

B, T, D, P, DEPTH, WORDS = 3, 13, 8, 3, 2, 11


def trunk(dtype: torch.dtype = torch.float64, *, bias: bool = False) -> LanguageModel:
    """A language model with parameters that no initialisation gives."""
    torch.manual_seed(0)
    embedding = nn.Sequential(nn.Embedding(WORDS, D), nn.LayerNorm(D))
    model = LanguageModel(WORDS, rwkv4(D, DEPTH), embedding=embedding, head=nn.Linear(D, WORDS, bias=bias)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def tokens(rows: int = B, length: int = T) -> Tensor:
    return torch.randint(WORDS, (rows, length), generator=torch.Generator().manual_seed(1))


def by_the_equations(model: LanguageModel, words: Tensor) -> Tensor:
    """Logits by loops over perspectives, steps and all that came before, from the parameters alone."""
    parameters = model.state_dict()
    logits, normed = [], []
    for p in range(P):
        x = model.embedding(words)
        for place in range(2 * DEPTH):
            own = {
                name.removeprefix(f"stack.blocks.{place}."): value
                for name, value in parameters.items()
                if name.startswith(f"stack.blocks.{place}.")
            }
            z = layer_norm(x, (D,), own["norm.norm.weight"], own["norm.norm.bias"])
            z_before = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], 1)

            def mixed(name: str, own: dict = own, z: Tensor = z, z_before: Tensor = z_before, p: int = p) -> Tensor:
                mu = own[f"mixer.time_mix_{name}"][p, 0]
                return (mu * z + (1 - mu) * z_before) @ own[f"mixer.{name}.weight"].T

            r = torch.sigmoid(mixed("receptance"))
            if place % 2 == 0:
                k, v = mixed("key"), mixed("value")
                w, u = torch.exp(own["mixer.time_decay"]), own["mixer.time_first"]
                wkv = []
                for t in range(words.shape[1]):
                    weights = [torch.exp(-(t - 1 - i) * w + k[:, i]) for i in range(t)] + [torch.exp(u + k[:, t])]
                    wkv.append(sum(weight * v[:, i] for i, weight in enumerate(weights)) / sum(weights))
                x = x + (r * torch.stack(wkv, 1)) @ own["mixer.output.weight"].T
            else:
                x = x + r * (torch.relu(mixed("key")) ** 2 @ own["mixer.value.weight"].T)
        z = layer_norm(x, (D,), parameters["stack.norm.weight"], parameters["stack.norm.bias"])
        normed.append(z)
        logits.append(model.head(z))
    alpha = torch.softmax(sum(normed) / P @ parameters["stack.W_c.weight"].T, -1)
    return sum(alpha[..., p, None] * logits[p] for p in range(P))


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_the_papers_equations(bias: bool) -> None:
    model = with_perspectives(trunk(bias=bias), P, noise=0.5)
    logits, _ = model(tokens())
    assert_close(logits, by_the_equations(model, tokens()), torch.float64, "logits")
    assert float((logits - trunk(bias=bias)(tokens())[0]).abs().max()) > 0.05  # and something else than RWKV-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_perspective_is_rwkv4_to_the_bit(dtype: torch.dtype) -> None:
    peer = trunk(dtype)
    model = with_perspectives(peer, 1, noise=0.5)
    theirs, ours = peer(tokens()), model(tokens())
    assert torch.equal(ours[0], theirs[0])
    for (name, a), (_, b) in zip(named_tensors(ours[1]), named_tensors(theirs[1]), strict=True):
        assert torch.equal(a[:, 0], b), name
    ours[0].square().sum().backward()
    theirs[0].square().sum().backward()
    of_peer = dict(peer.named_parameters())
    for name, parameter in model.named_parameters():
        if name == "stack.W_c.weight":
            assert bool((parameter.grad == 0).all())  # one perspective leaves nothing to choose
        else:
            other = of_peer[name.replace("stack.norm", "norm")]
            assert_close(parameter.grad, other.grad, dtype, name)


@torch.no_grad()
def test_without_noise_all_perspectives_start_as_the_trunk() -> None:
    peer = trunk()
    assert_close(with_perspectives(peer, P)(tokens())[0], peer(tokens())[0], torch.float64, "logits")


def test_symmetry_breaks_by_what_chooses_and_sooner_by_noise() -> None:
    def apart(noise: float) -> float:
        """How far the shift vectors are from each other after a step of gradient descent."""
        model = with_perspectives(trunk(), P, noise=noise)
        model(tokens())[0].square().mean().backward()
        mu = model.stack.blocks[0].mixer.time_mix_key
        stepped = mu.detach() - 0.01 * mu.grad
        return float((stepped - stepped.mean(0)).abs().max())

    assert 1e-7 < apart(0.0) < 0.01
    assert apart(0.1) > 10 * apart(0.0)


def test_noise_has_the_scale_asked_for_and_spares_the_first() -> None:
    torch.manual_seed(0)
    blocks = rwkv4(256, 2)
    before = [block.mixer.time_mix_key.detach().clone() for block in blocks.blocks]
    stack = Perspectives(blocks, nn.LayerNorm(256), 5, noise=0.2)
    chooses = stack.W_c.weight.detach()  # uniform within ±1 / sqrt(D)
    assert float(chooses.std()) == pytest.approx(1 / math.sqrt(3 * 256), rel=0.1)
    assert float(chooses.abs().max()) <= 1 / 16
    for block, mu in zip(stack.blocks, before, strict=True):
        after = block.mixer.time_mix_key.detach()
        assert after.shape == (5, 1, 256)
        assert torch.equal(after[:1], mu)
        assert float((after[1:] - mu).std()) == pytest.approx(0.2, rel=0.1)


@torch.no_grad()
def test_pieces_and_steps_equal_the_whole() -> None:
    model, words = with_perspectives(trunk(), P, noise=0.5).eval(), tokens()
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[0, 4] = reset[2, 9] = True
    whole, last = model(words, reset=reset)
    for sizes in ([1] * T, [5, 1, 7], [2, 11]):
        state, parts = model.initial_state(B), []
        for piece, again in zip(words.split(sizes, 1), reset.split(sizes, 1), strict=True):
            logits, state = model(piece, state, reset=again)
            parts.append(logits)
        assert_close(torch.cat(parts, 1), whole, torch.float64, "logits")
        for (name, a), (_, b) in zip(named_tensors(state), named_tensors(last), strict=True):
            assert_close(a, b, torch.float64, name)
    apart = model(words[:1, 4:])[0]  # what a reset forgets
    assert_close(whole[:1, 4:], apart, torch.float64, "after a reset")


@torch.no_grad()
def test_lengths_equal_rows_of_their_own() -> None:
    model, words = with_perspectives(trunk(), P, noise=0.5).eval(), tokens()
    lengths = torch.tensor([5, 0, T])
    for before in (None, model(tokens(B, 4))[1]):
        logits, state = model(words, before, lengths=lengths)
        for b in (0, 2):
            row = None if before is None else select(before, [b])
            alone, after = model(words[b : b + 1, : lengths[b]], row)
            assert_close(logits[b : b + 1, : lengths[b]], alone, torch.float64, f"row {b}")
            for (name, one), (_, of_all) in zip(named_tensors(after), named_tensors(state), strict=True):
                assert_close(of_all[b : b + 1], one, torch.float64, name)


@torch.no_grad()
def test_rows_are_independent() -> None:
    model, words = with_perspectives(trunk(), P, noise=0.5), tokens()
    logits, _ = model(words)
    for b in range(B):
        assert_close(logits[b : b + 1], model(words[b : b + 1])[0], torch.float64, f"row {b}")


def test_the_state_is_that_of_the_stack_p_times() -> None:
    peer = trunk()
    model = with_perspectives(peer, P)
    assert nbytes(model.initial_state(2)) == P * nbytes(peer.initial_state(2))
    assert nbytes(model(tokens(2, 20))[1]) == nbytes(model.initial_state(2))
    assert all(part.shape[:2] == (2, P) for _, part in named_tensors(model.initial_state(2)))
    count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in peer.parameters())
    assert count == 5 * (P - 1) * D * DEPTH + P * D


def test_a_frozen_trunk_leaves_the_perspectives_and_on_request_the_head() -> None:
    model = with_perspectives(trunk(torch.float32), P, noise=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for head in (False, True):
        freeze_trunk(model, head=head)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert {name.split(".")[-2] for name in trained if "time_mix" not in name} == (
            {"W_c", "head"} if head else {"W_c"}
        )
        assert sum("time_mix" in name for name in trained) == 5 * DEPTH
    freeze_trunk(model)
    words = tokens(B, T + 1)
    loss = lambda: nn.functional.cross_entropy(model(words[:, :-1])[0].flatten(0, 1), words[:, 1:].flatten())  # noqa: E731
    losses = minimise(model, loss, steps=60, lr=0.05, lr_factor=1.0)
    assert losses[-1] < losses[0] - 0.1
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "time_mix" in name or "W_c" in name}
    recurrent, other = param_groups(model)
    assert len({*recurrent, *other}) == len([*model.parameters()])


@torch.no_grad()
def test_generation_and_streams_take_it_as_any_language_model() -> None:
    model = with_perspectives(trunk(torch.float32), P, noise=0.3).eval()
    words, stream = [1, 2, 3], Stream(model)
    stream.push([words])
    for word in generate(model, words, 5, temperature=0):
        logits, _ = model(torch.tensor([words]))
        assert int(logits[0, -1].argmax()) == word
        words = [*words, word]
        assert_close(stream.push(word)[0], model(torch.tensor([words]))[0][0, -1], torch.float32, "logits")
    assert "temporal_rnn" in cite(model)
    assert "rwkv4" in cite(model)


def test_it_compiles_in_one_graph() -> None:
    model = with_perspectives(trunk(torch.float32), P, noise=0.3).eval().requires_grad_(False)
    expected, _ = model(tokens())
    compiled, _ = torch.compile(model, fullgraph=True, backend="eager")(tokens())
    assert_close(compiled, expected, torch.float32, "logits")


def test_what_cannot_be_is_named() -> None:
    norm = nn.LayerNorm(D)
    with pytest.raises(ResurgeError, match="perspectives must be at least 1, and is 0"):
        Perspectives(rwkv4(D, 1), norm, 0)
    with pytest.raises(ResurgeError, match="noise must be at least 0, and is -1"):
        Perspectives(rwkv4(D, 1), norm, noise=-1)
    with pytest.raises(ResurgeError, match=r"around RWKV-4's layers, .* a LRU has none"):
        Perspectives(Stack(lambda: LRU(D, D), 1), norm)
    with pytest.raises(ResurgeError, match=r"RWKV4 has \{'time_mix_key': \(2, 1, 8\)"):
        Perspectives(Perspectives(rwkv4(D, 1), norm, 2), norm, 2)
    with pytest.raises(ResurgeError, match="must be one of Perspectives, and is a Blocks"):
        freeze_trunk(trunk())
    model = with_perspectives(trunk(), P)
    with pytest.raises(ResurgeError, match=r"state.x must have shape \(3, 3, 8\) .* has \(2, 3, 8\)"):
        model(tokens(), model.initial_state(2))
    with pytest.raises(ResurgeError, match=r"state.x must have shape \(3, 3, 8\)"):
        model(tokens(), trunk().initial_state(B))
