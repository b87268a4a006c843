"""A memory in plain Python, number by number, from its weights alone; slopes by finite differences."""

import math
from typing import NamedTuple

from convneur.memory import NeuralMemory

Matrix = list[list[float]]


class ByHand(NamedTuple):
    """Of one image: surprise (N), and what its tokens read, (N, D), of the written memory and of M_0."""

    surprise: list[float]
    reads: Matrix
    unwritten: Matrix


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


def by_hand(memory: NeuralMemory, tokens: Matrix) -> ByHand:
    """What the formulas of docs/method.md give for tokens (N, D) of one image."""
    config, heads = memory.config, memory.heads
    count, width = len(tokens), len(tokens[0])
    head = width // heads
    values = {name: parameter.tolist() for name, parameter in memory.named_parameters()}
    names = ("fast.weight",) if config.state == "linear" else ("fast.weight1", "fast.weight2", "fast.gain")
    stored = [normed(token, values["store_norm.weight"]) for token in tokens]
    size = config.chunk_size or count
    chunks = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    answer = ANSWERS[config.state]
    surprise = [0.0] * count
    reads, unwritten = ([[0.0] * width for _ in range(count)] for _ in range(2))
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
        queries = [
            times(values["to_queries.weight"], normed(token, values["retrieve_norm.weight"]))[own] for token in tokens
        ]
        for i in range(count):
            unwritten[i][own] = answer(initial, queries[i])

        def off(weights, i, keys=keys, targets=targets):
            return sum((a - v) ** 2 for a, v in zip(answer(weights, keys[i]), targets[i], strict=True)) / head

        weights = initial
        momentum = [[[0.0] * len(row) for row in matrix] for matrix in initial]
        for number, chunk in enumerate(chunks):
            if config.read == "causal":
                for i in chunk:
                    reads[i][own] = answer(weights, queries[i])
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
        if config.read == "global":
            for i in range(count):
                reads[i][own] = answer(weights, queries[i])
    return ByHand(surprise, reads, unwritten)


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
