"""Per-token surprise and unwritten answers against a computation in plain Python, number by number."""

import math

import pytest
import torch

from convneur.memory import MemoryConfig, NeuralMemory

WIDTH, COUNT = 4, 7
Matrix = list[list[float]]


def stirred(**knobs) -> NeuralMemory:
    memory = NeuralMemory(WIDTH, MemoryConfig(**knobs)).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return memory


def times(matrix: Matrix, vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def turned(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def normed(token: list[float], gain: list[float]) -> list[float]:
    root = math.sqrt(sum(x * x for x in token) / len(token) + 1e-6)
    return [x / root * g for x, g in zip(token, gain, strict=True)]


def linear_answer(weights: list[Matrix], x: list[float]) -> list[float]:
    return times(turned(weights[0]), x)


def mlp_answer(weights: list[Matrix], x: list[float]) -> list[float]:
    hidden = [z * 0.5 * (1 + math.erf(z / math.sqrt(2))) for z in times(turned(weights[0]), x)]
    out = times(turned(weights[1]), hidden)
    mean = sum(out) / len(out)
    root = math.sqrt(sum((z - mean) ** 2 for z in out) / len(out) + 1e-5)
    return [k + (1 + g) * (z - mean) / root for k, z, g in zip(x, out, weights[2][0], strict=True)]


ANSWERS = {"linear": linear_answer, "mlp": mlp_answer}


def by_hand(memory: NeuralMemory, tokens: torch.Tensor) -> tuple[list[float], Matrix]:
    """Surprise (N) of one image's tokens (N, D), and what they read of M_0 (N, D); slopes by finite differences."""
    config, heads = memory.config, memory.heads
    head = WIDTH // heads
    values = {name: parameter.tolist() for name, parameter in memory.named_parameters()}
    names = ("fast.weight",) if config.state == "linear" else ("fast.weight1", "fast.weight2", "fast.gain")
    stored = [normed(token, values["store_norm.weight"]) for token in tokens.tolist()]
    size = config.chunk_size or COUNT
    chunks = [list(range(start, min(start + size, COUNT))) for start in range(0, COUNT, size)]
    answer = ANSWERS[config.state]
    surprise = [0.0] * COUNT
    reads = [[0.0] * WIDTH for _ in range(COUNT)]
    for h in range(heads):
        own = slice(h * head, (h + 1) * head)
        initial = [values[name][h] for name in names]
        keys = [times(values["to_keys.weight"], x)[own] for x in stored]
        if config.state == "linear":
            keys = [[k / math.sqrt(sum(j * j for j in key) + 1e-6) for k in key] for key in keys]
        targets = [times(values["to_values.weight"], x)[own] for x in stored]
        rates = [
            [a + b for a, b in zip(times(values["to_rates.weight"], x), values["to_rates.bias"], strict=True)]
            for x in stored
        ]
        for i, token in enumerate(tokens.tolist()):
            query = times(values["to_queries.weight"], normed(token, values["retrieve_norm.weight"]))[own]
            reads[i][own] = answer(initial, query)

        def off(weights, i, keys=keys, targets=targets):
            return sum((a - v) ** 2 for a, v in zip(answer(weights, keys[i]), targets[i], strict=True)) / head

        weights = initial
        momentum = [[[0.0] * len(row) for row in matrix] for matrix in initial]
        for number, chunk in enumerate(chunks):
            if config.read == "causal" and number == len(chunks) - 1:
                for i in chunk:
                    surprise[i] = math.nan
                break
            point = initial if config.anchor == "initial" else weights
            for i in chunk:
                surprise[i] += off(point, i) / heads
            scale = config.max_step * config.reference_length / len(chunk)
            means = [sum(rates[i][r] for i in chunk) / len(chunk) for r in range(3 * heads)]
            eta, alpha = sigmoid(means[heads + h]), sigmoid(means[2 * heads + h])

            def loss(weights, chunk=chunk, rates=rates, off=off, scale=scale, h=h):
                return sum(scale * sigmoid(rates[i][h]) * off(weights, i) for i in chunk)

            slope = slopes(loss, point)
            momentum = [
                [[eta * s - g for s, g in zip(*rows, strict=True)] for rows in zip(*both, strict=True)]
                for both in zip(momentum, slope, strict=True)
            ]
            weights = [
                [[(1 - alpha) * w + s for w, s in zip(*rows, strict=True)] for rows in zip(*both, strict=True)]
                for both in zip(weights, momentum, strict=True)
            ]
    return surprise, reads


def slopes(loss, weights: list[Matrix], step: float = 1e-5) -> list[Matrix]:
    found = []
    for m, matrix in enumerate(weights):
        found.append([[0.0] * len(row) for row in matrix])
        for r, row in enumerate(matrix):
            for c in range(len(row)):
                sides = []
                for change in (step, -step):
                    moved = [[list(line) for line in each] for each in weights]
                    moved[m][r][c] += change
                    sides.append(loss(moved))
                found[m][r][c] = (sides[0] - sides[1]) / (2 * step)
    return found


@pytest.mark.parametrize("anchor", ["initial", "previous"])
@pytest.mark.parametrize(("read", "chunk"), [("global", None), ("global", 3), ("causal", 3)])
@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_surprise_is_what_the_formula_says(state, read, chunk, anchor):
    memory = stirred(state=state, read=read, anchor=anchor, chunk_size=chunk, heads=2, max_step=0.02)
    tokens = torch.randn(1, COUNT, WIDTH, dtype=torch.float64)
    surprise, reads = by_hand(memory, tokens[0])
    with torch.inference_mode():
        torch.testing.assert_close(memory.surprise(tokens)[0].tolist(), surprise, rtol=1e-6, atol=0, equal_nan=True)
        torch.testing.assert_close(memory.unwritten(tokens)[0].tolist(), reads, rtol=1e-9, atol=1e-12)
    assert sum(map(math.isnan, surprise)) == (1 if read == "causal" else 0)


def test_where_no_chunk_is_ever_written_nothing_surprises():
    memory = stirred(read="causal", chunk_size=10)
    tokens = torch.randn(2, COUNT, WIDTH, dtype=torch.float64)
    assert memory.surprise(tokens).isnan().all()
    torch.testing.assert_close(memory.unwritten(tokens), memory(tokens))


def test_tokens_of_another_width_are_refused():
    with pytest.raises(ValueError, match="the width of this memory"):
        stirred().surprise(torch.randn(1, 3, 5, dtype=torch.float64))
