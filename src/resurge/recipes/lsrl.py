"""Universal In-Context Approximation By Prompting Fully Recurrent Models, arXiv 2406.01424."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resurge.layers import GatedReLURNN
from resurge.lsrl import CompiledProgram, compile_program
from resurge.lsrl.programs import cells_prompt, function_of_cells, majority, word_map, words_prompt
from resurge.lsrl.sugar import ReLUSelect, Select, gated_select
from resurge.recipes.base import Check, Experiment

PAPER = GatedReLURNN.PAPER

CLAIM = (
    "A recurrent network with fixed weights computes what its prompt describes: programs compiled to its layers "
    "approximate any function of two numbers, with half the error for cells of half the width, and look words up in "
    "any dictionary; and a choice made with multiplicative gates outlives noise in the weights under which one made "
    "with ReLUs tells nothing, unless a tight bound for its values is known beforehand, which gates do not need."
)

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {}


@dataclass
class Prompted:
    """Random functions and random dictionaries, given in prompts to programs that have never seen them."""

    seed: int = 0
    device: str = "cpu"
    functions: int = 5
    queries: int = 400
    """Points at which each function is asked for."""
    words: int = 256
    """Dictionaries."""
    entries: int = 8
    """Words in each, of two letters out of four."""
    noise: float = 1e-6
    """Standard deviation of the relative error of every weight."""
    draws: int = 10
    """Of this noise."""


def config(quick: bool) -> Prompted:
    """The claim's settings; quick: enough to see that it runs."""
    return Prompted(functions=1, queries=20, words=20, draws=2) if quick else Prompted()


def random_function(generator: torch.Generator) -> tuple[Callable[[Tensor], Tensor], float]:
    """A sum of waves over the unit square, and a bound on its slope."""
    frequency = 3 * torch.randn(4, 2, generator=generator, dtype=torch.float64)
    phase = 6.3 * torch.rand(4, generator=generator, dtype=torch.float64)

    def f(points: Tensor) -> Tensor:
        return torch.sin(points @ frequency.T + phase).mean(-1)

    return f, float(frequency.norm(dim=1).mean())


def dictionaries(config: Prompted, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prompts for `word_map(2)`, each with a dictionary of its own, and the right translations."""
    letters = torch.tensor([4, 1])
    keys = torch.stack([torch.randperm(16, generator=generator)[: config.entries] for _ in range(config.words)])
    words = keys[..., None] // letters % 4
    values = torch.randint(1, 5, words.shape, generator=generator)
    row, asked = torch.arange(config.words), torch.randint(config.entries, (config.words,), generator=generator)
    return words_prompt(words[row, asked], words, values), values[row, asked]


def approximation(config: Prompted, generator: torch.Generator) -> dict[str, float]:
    """Errors with 4, 8 and 16 cells a side, and the largest of all in units of the theory's bound for it.

    Errors are means over functions of the largest over queries; beside them the largest difference to the interpreter,
    and the error of the best constant.
    """
    program = function_of_cells(2)
    network = compile_program(program).to(config.device)
    errors = torch.zeros(config.functions, 3)
    worst = torch.zeros(config.functions, 3)
    constant, difference = [], 0.0
    for i in range(config.functions):
        f, slope = random_function(generator)
        queries = 0.001 + 0.999 * torch.rand(config.queries, 2, generator=generator, dtype=torch.float64)
        values = f(queries)
        for j, n in enumerate((4, 8, 16)):
            prompt = cells_prompt(queries, f, n)
            with torch.no_grad():
                told = network(prompt.to(config.device))[0].cpu()
            errors[i, j] = (told[:, -1, 0] - values).abs().max()
            worst[i, j] = errors[i, j] / (slope * 2**0.5 * (0.5 / n + 0.001))
            if n == 4:
                difference = max(difference, float((told - program.interpret(prompt)).abs().max()))
        constant.append(float((values.max() - values.min()) / 2))
    return {
        "function_difference": difference,
        "error_4": float(errors[:, 0].mean()),
        "error_8": float(errors[:, 1].mean()),
        "error_16": float(errors[:, 2].mean()),
        "error_constant": sum(constant) / len(constant),
        "worst_of_bound": float(worst.max()),
    }


def noisy(network: CompiledProgram, prompt: Tensor, right: Tensor, noise: float, seeds: list[int]) -> float:
    """Share of letters that come out right, over networks with a relative error in every weight, one a seed."""
    shares = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        worn = copy.deepcopy(network)
        with torch.no_grad():
            for p in worn.parameters():
                p.mul_(1 + noise * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device))
            told = worn(prompt)[0][:, -1].cpu()
        shares.append(float((told.round() == right).float().mean()))
    return sum(shares) / len(shares)


def run(config: Prompted) -> dict[str, float]:
    """What the compiled programs get right, and how far they are from what the interpreter says."""
    generator = torch.Generator().manual_seed(config.seed)
    votes = torch.randint(2, (config.words, 101, 1), generator=generator)
    lead = (2 * votes - 1).cumsum(1) > 0
    with torch.no_grad():
        counted = compile_program(majority()).to(config.device)(votes.double().to(config.device))[0].cpu()
    numbers = {"majority": float((counted == lead).float().mean())} | approximation(config, generator)
    prompt, right = dictionaries(config, generator)
    seeds = [config.draws * config.seed + i for i in range(config.draws)]
    ways: dict[str, Select] = {"gated": gated_select}
    ways |= {f"relu_{bound}": ReLUSelect(float(bound)) for bound in ("1e1", "1e3", "1e10")}
    for name, select in ways.items():
        program = word_map(2, select=select)
        network, there = compile_program(program).to(config.device), prompt.to(config.device)
        with torch.no_grad():
            difference = (network(there)[0].cpu() - program.interpret(prompt)).abs().max()
        numbers |= {
            f"{name}_difference": float(difference),
            f"{name}_words": noisy(network, there, right, 0.0, [0]),
            f"{name}_noisy": noisy(network, there, right, config.noise, seeds),
        }
    return numbers


def check(numbers: dict[str, float]) -> Check:
    """All programs are exact, errors halve with the cells within the bound, and gates outlive what ReLUs do not.

    Eight seeds: every answer right; the compiled networks equal the interpreter in every digit (1e-9 is allowed); twice
    the cells a side leave 48 to 53 % of the largest error, at most 0.76 of the bound. With every weight off by 1e-6 the
    gated word map is right in all letters; the one of ReLUs in 3 to 7 % with M = 1e3 and in none with M = 1e10 (its
    outputs are no letters any more, so this is below the quarter that guessing gives), but in all with M = 10, the
    least that holds letters: what ReLUs bear falls as 1 / M, so it is the bound that costs, not the ReLU.
    """
    n = numbers
    exact = all(
        n[key] == 1 for key in ("majority", "gated_words", "relu_1e1_words", "relu_1e3_words", "relu_1e10_words")
    )
    agrees = all(n[key] <= 1e-9 for key in ("function_difference", "gated_difference"))
    return Check(
        holds=exact
        and agrees
        and n["worst_of_bound"] <= 1
        and n["error_8"] <= 0.65 * n["error_4"]
        and n["error_16"] <= 0.65 * n["error_8"]
        and n["gated_noisy"] >= 0.9
        and max(n["relu_1e3_noisy"], n["relu_1e10_noisy"]) <= 0.5,
        measured=n["gated_noisy"],
        baseline=max(n["relu_1e3_noisy"], n["relu_1e10_noisy"]),
        threshold=0.9,
        paper="in words: architectures with multiplicative gates implement certain operations more stably",
    )
