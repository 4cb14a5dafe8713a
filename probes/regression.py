"""L2-regularised logistic regression: all layers, folds and strengths in one batched Newton iteration.

Where a fit has no more training rows than dimensions the iteration runs in the dual, on the Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from probes.digest import AuditError
from probes.discriminant import check_fits, finite
from probes.spectrum import BUDGET
from probes.split import folds

STEPS = 100
# Largest slope per row, in probability: Newton goes on above the first and has failed above the second.
TOLERANCE, SETTLED = 1e-9, 1e-6
FEW = 8
"""A fit that lacks at most one row in so many is found from the fit on all of them."""


@dataclass(frozen=True, eq=False)
class Logistic:
    """Fitted weights; the log-odds of label 1, in nats, are rows @ vector + bias. Not of unit norm."""

    vector: Float[Tensor, "*batch fit strength d_model"]
    bias: Float[Tensor, "*batch fit strength"]


def logistic(
    rows: Float[Tensor, "*batch row d_model"],
    labels: Bool[Tensor, " row"],
    weight: Float[Tensor, "fit row"],
    strength: Float[Tensor, " strength"],
) -> Logistic:
    """Minimise strength * (summed log-loss) + |w|^2 / 2 on columns standardised over each fit's training rows.

    The same optimum as scikit-learn's StandardScaler and LogisticRegression(C=strength): the intercept is free of
    penalty, a constant column keeps its scale. The weights come back in the units of `rows`.

    Args:
        rows: activations.
        labels: true for label 1.
        weight: 0/1, the training rows of each fit.
        strength: inverse regularisation C, positive; smaller is stronger regularisation.

    Raises:
        AuditError: if a fit lacks a class, rows are not finite, a strength is not positive, or Newton does not settle.
    """
    rows, strength = finite(rows), finite(torch.as_tensor(strength))
    check_fits(labels, weight)
    if not len(strength) or bool((strength <= 0).any()):
        raise AuditError(found=f"strengths {strength.tolist()}", expected="positive numbers", do="Use 0.1")
    flat = rows.reshape(-1, *rows.shape[-2:])
    kept, present = _gather(weight)
    order = torch.argsort(strength)
    vector = flat.new_empty(len(flat), len(weight), len(strength), flat.shape[-1])
    bias = flat.new_empty(vector.shape[:-1])
    largest = max(kept.shape[1], flat.shape[-1])
    for matrix, vectors, biases in zip(flat, vector, bias, strict=True):
        for fits in torch.arange(len(weight)).split(max(1, BUDGET // (8 * kept.shape[1] * largest))):
            w, b = _path(matrix[kept[fits]], labels[kept[fits]], present[fits], strength[order])
            vectors[fits[:, None], order], biases[fits[:, None], order] = w, b
    shape = rows.shape[:-2]
    return Logistic(vector.reshape(*shape, *vector.shape[1:]), bias.reshape(*shape, *bias.shape[1:]))


def logistic_scores(
    gram: Float[Tensor, "row row"], labels: Bool[Tensor, " row"], weight: Float[Tensor, "fit row"], strength: float
) -> Float[Tensor, "fit row"]:
    """Log-odds of label 1, in nats, of every row by each fit, from the rows' inner products alone.

    Minimises strength * (summed log-loss) + |w|^2 / 2 on the columns as they are, the intercept free of penalty: the
    same optimum as scikit-learn's LogisticRegression(C=strength). For few rows of many columns, such as words. Fits on
    nearly the same rows cost little more than one.

    Args:
        gram: inner products of the rows, float64.
        labels: true for label 1.
        weight: 0/1, the training rows of each fit.
        strength: inverse regularisation C, positive.

    Raises:
        AuditError: if a fit lacks a class, or Newton does not settle.
    """
    check_fits(labels, weight)
    kept, present = _gather(weight)
    alpha, bias, settled = _lacking(gram, labels, weight != 0, strength)
    for fits in (~settled).nonzero()[:, 0].split(max(1, BUDGET // (8 * kept.shape[1] ** 2))):
        rows, there = kept[fits], present[fits]
        inner = gram[rows[:, :, None], rows[:, None]] * (there[:, :, None] & there[:, None])
        problem = _Dual(inner, labels[rows], there)
        weights, bias[fits] = _newton(problem, *problem.start(), strength)
        alpha[fits[:, None], rows] = weights
    return alpha @ gram + bias[:, None]


def _lacking(
    gram: Float[Tensor, "row row"], labels: Bool[Tensor, " row"], kept: Bool[Tensor, "fit row"], strength: float
) -> tuple[Float[Tensor, "fit row"], Float[Tensor, " fit"], Bool[Tensor, " fit"]]:
    """Fits that lack few of all training rows, by steps with the curvature of the fit on them all, and which settled.

    With A = K + (C W)^-1 of all rows and M = A^-1, A without the rows G has the inverse M - M_G' M_GG^-1 M_G.
    """
    alpha, bias = gram.new_zeros(kept.shape), gram.new_zeros(len(kept))
    settled = torch.zeros(len(kept), dtype=torch.bool)
    union = kept.any(0).nonzero()[:, 0]
    near = ((~kept[:, union]).sum(1) * FEW <= len(union)).nonzero()[:, 0]
    if len(near) < 2:
        return alpha, bias, settled
    inner, mask = gram[union][:, union], kept[near][:, union]
    whole = _Dual(inner[None], labels[union][None], torch.ones(1, len(union), dtype=torch.bool))
    start, level = _newton(whole, *whole.start(), strength)
    curvature = whole.curvature(whole.logits(start, level))[0].clamp_min(torch.finfo(gram.dtype).tiny ** 0.25)
    root = (strength * curvature).sqrt()
    system = root[:, None] * inner * root
    system.diagonal().add_(1.0)
    inverse = root[:, None] * torch.cholesky_inverse(torch.linalg.cholesky(system)) * root
    out, real = _gather((~mask).double())
    block = inverse[out[:, :, None], out[:, None]]
    block = torch.where(real[:, :, None] & real[:, None], block, torch.eye(block.shape[-1], dtype=block.dtype))
    # A fit whose numbers go astray does not settle, and is left to Newton.
    factor, beside = torch.linalg.cholesky_ex(block)[0], inverse[out] * real[..., None]

    def solved(values: Float[Tensor, "near row"]) -> Float[Tensor, "near row"]:
        plain = values @ inverse
        pulled = torch.cholesky_solve((plain.gather(1, out) * real)[..., None], factor)
        return (plain - (pulled.mT @ beside)[:, 0]) * mask

    each = _Dual(inner[None], labels[union].expand(mask.shape), mask)
    ones = solved(mask.double())
    weights, shift, going = start * mask, level.repeat(len(near)), torch.ones(len(near), dtype=torch.bool)
    for _ in range(STEPS):
        logits = weights @ inner + shift[:, None]
        going = ~(each.residual(weights, logits, strength) <= TOLERANCE)
        if not bool(going.any()):
            break
        step = solved((weights / strength - each.error(logits)) / curvature)
        move = (weights.sum(1) - step.sum(1)) / ones.sum(1)
        weights, shift = weights - step - move[:, None] * ones, shift + move
    done = near[~going]
    alpha[done[:, None], union], bias[done], settled[done] = weights[~going], shift[~going], True
    return alpha, bias, settled


def choose_strength(
    rows: Float[Tensor, "*batch row d_model"],
    labels: Bool[Tensor, " row"],
    weight: Float[Tensor, "fit row"],
    groups: Sequence[str],
    strength: Float[Tensor, " strength"],
    rng: np.random.Generator,
) -> Int[Tensor, "*batch fit"]:
    """Index of the strength with the least held-out log-loss, by 4-fold group CV inside each fit's training rows.

    Ties go to the earlier strength: list the strongest regularisation first.

    Args:
        rows: activations.
        labels: true for label 1.
        weight: 0/1, the training rows of each (outer) fit; no other row is looked at.
        groups: the group of each row; whole groups share an inner fold.
        strength: the candidates.
        rng: deals the groups to the inner folds, once for all fits.

    Raises:
        AuditError: if an inner training set lacks a class.
    """
    rows = finite(rows)
    inner = torch.as_tensor(folds(groups, 4, rng))
    chosen = weight != 0
    held = torch.stack([chosen & (inner == fold) for fold in inner.unique()], dim=1)
    train = (chosen[:, None] & ~held).to(torch.float64)
    fitted = logistic(rows, labels, train.reshape(-1, train.shape[-1]), strength)
    loss = rows.new_zeros(*rows.shape[:-2], *train.shape[:2], len(strength))
    flat, losses = rows.reshape(-1, *rows.shape[-2:]), loss.reshape(-1, *loss.shape[-3:])
    vectors, biases = fitted.vector.reshape(*losses.shape, -1), fitted.bias.reshape(losses.shape)
    signs = torch.where(labels, 1.0, -1.0).to(torch.float64)
    for matrix, some, vector, bias in zip(flat, losses, vectors, biases, strict=True):
        for fit in range(len(weight)):
            logits = torch.einsum("rd,ksd->ksr", matrix, vector[fit]) + bias[fit, ..., None]
            some[fit] = (softplus(-signs * logits) * held[fit][:, None]).sum(-1)
    total = loss.sum(-2)
    # A tie up to what Newton leaves unsettled.
    return (total <= total.amin(-1, keepdim=True) * (1 + 1e-6)).to(torch.uint8).argmax(-1)


def _gather(weight: Float[Tensor, "fit row"]) -> tuple[Int[Tensor, "fit kept"], Bool[Tensor, "fit kept"]]:
    """Training rows of each fit, padded to the longest, and which of them are real."""
    counts = (weight != 0).sum(1)
    order = torch.argsort((weight == 0).to(torch.uint8), dim=1, stable=True)[:, : int(counts.max())]
    return order, torch.arange(order.shape[1]) < counts[:, None]


def _path(
    rows: Float[Tensor, "fit row d_model"],
    labels: Bool[Tensor, "fit row"],
    present: Bool[Tensor, "fit row"],
    strength: Float[Tensor, " strength"],
) -> tuple[Float[Tensor, "fit strength d_model"], Float[Tensor, "fit strength"]]:
    """Fits at rising strengths, each started from the one before."""
    mask = present.to(torch.float64)[..., None]
    count = mask.sum(1, keepdim=True)
    mean = (rows * mask).sum(1, keepdim=True) / count
    rows = (rows - mean) * mask
    spread = (rows.square().sum(1, keepdim=True) / count).sqrt()
    # Under this a column is constant up to rounding.
    spread = torch.where(spread > 10 * torch.finfo(rows.dtype).eps * mean.abs(), spread, 1.0)
    rows = rows / spread
    dual = rows.shape[1] <= rows.shape[2]
    problem = _Dual(rows @ rows.mT, labels, present) if dual else _Primal(rows, labels, present)
    weights, bias = problem.start()
    vectors, biases = [], []
    for each in strength.tolist():
        weights, bias = _newton(problem, weights, bias, each)
        w = ((weights[:, None] @ rows)[:, 0] if dual else weights) / spread[:, 0]
        vectors.append(w)
        biases.append(bias - (w * mean[:, 0]).sum(-1))
    return torch.stack(vectors, 1), torch.stack(biases, 1)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Fits in parallel; `matrix` holds the rows (primal) or their Gram matrix (dual), zero where a row is padding."""

    matrix: Float[Tensor, "fit row column"]
    labels: Bool[Tensor, "fit row"]
    present: Bool[Tensor, "fit row"]

    def start(self) -> tuple[Float[Tensor, "fit column"], Float[Tensor, " fit"]]:
        return self.matrix.new_zeros(len(self.matrix), self.matrix.shape[2]), self.matrix.new_zeros(len(self.matrix))

    def at(self, fits: Bool[Tensor, " fit"]) -> Self:
        return type(self)(self.matrix[fits], self.labels[fits], self.present[fits])

    def logits(self, weights: Float[Tensor, "fit column"], bias: Float[Tensor, " fit"]) -> Float[Tensor, "fit row"]:
        return (self.matrix @ weights[..., None])[..., 0] + bias[:, None]

    def error(self, logits: Float[Tensor, "fit row"]) -> Float[Tensor, "fit row"]:
        """Label minus probability, zero on padding."""
        return (self.labels.to(logits.dtype) - torch.sigmoid(logits)) * self.present

    def curvature(self, logits: Float[Tensor, "fit row"]) -> Float[Tensor, "fit row"]:
        return torch.sigmoid(logits) * torch.sigmoid(-logits) * self.present

    def loss(self, logits: Float[Tensor, "fit row"]) -> Float[Tensor, " fit"]:
        signs = torch.where(self.labels, 1.0, -1.0).to(logits.dtype)
        return (softplus(-signs * logits) * self.present).sum(-1)


class _Primal(_Problem):
    """Weights are w."""

    def penalty(self, weights: Float[Tensor, "fit column"]) -> Float[Tensor, " fit"]:
        return weights.square().sum(-1) / 2

    def residual(self, weights: Tensor, logits: Tensor, strength: float) -> Float[Tensor, " fit"]:
        """Largest slope of the mean log-loss plus penalty."""
        error = self.error(logits)
        slope = weights / strength - (error[:, None] @ self.matrix)[:, 0]
        largest = torch.maximum(slope.abs().amax(-1), error.sum(-1).abs())
        return largest / self.present.sum(-1)

    def step(self, weights: Tensor, bias: Tensor, logits: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """To the minimum of the quadratic model, solving [Z 1]' W [Z 1] + diag(1/C, 0)."""
        design = torch.cat([self.matrix, self.present[..., None].to(logits.dtype)], -1)
        hessian = (design * self.curvature(logits)[..., None]).mT @ design
        hessian.diagonal(0, 1, 2)[:, :-1] += 1 / strength
        slope = (self.error(logits)[:, None] @ design)[:, 0]
        slope[:, :-1] -= weights / strength
        step = torch.cholesky_solve(slope[..., None], torch.linalg.cholesky(hessian))[..., 0]
        return step[:, :-1], step[:, -1]


class _Dual(_Problem):
    """Weights are alpha, with w = Z' alpha and alpha = C (label - probability) at the optimum."""

    def penalty(self, weights: Float[Tensor, "fit column"]) -> Float[Tensor, " fit"]:
        return (weights * (self.matrix @ weights[..., None])[..., 0]).sum(-1) / 2

    def residual(self, weights: Tensor, logits: Tensor, strength: float) -> Float[Tensor, " fit"]:
        error = self.error(logits)
        return torch.maximum((weights / strength - error).abs().amax(-1), error.sum(-1).abs() / self.present.sum(-1))

    def step(self, weights: Tensor, bias: Tensor, logits: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """To the minimum of the quadratic model: (K + (C W)^-1) alpha + b = t with sum(alpha) = 0.

        Rasmussen and Williams (2006), algorithm 3.1: only I + C sqrt(W) K sqrt(W) is factored, so W may vanish.
        """
        curvature = self.curvature(logits)
        root = (strength * curvature).sqrt()[..., None]
        inner = root * self.matrix * root.mT
        inner.diagonal(0, 1, 2).add_(1.0)
        both = torch.stack([curvature * logits + self.error(logits), curvature], -1)
        pulled = torch.cholesky_solve(root * (self.matrix @ both), torch.linalg.cholesky(inner))
        solved = both - root * pulled
        aim = solved[..., 0].sum(-1) / solved[..., 1].sum(-1)
        return strength * (solved[..., 0] - aim[:, None] * solved[..., 1]) - weights, aim - bias


def _newton(
    problem: _Primal | _Dual, weights: Float[Tensor, "fit column"], bias: Float[Tensor, " fit"], strength: float
) -> tuple[Float[Tensor, "fit column"], Float[Tensor, " fit"]]:
    """Damped Newton on all fits; those that have settled drop out of the batch."""
    weights, bias = weights.clone(), bias.clone()
    active = torch.arange(len(weights))
    for _ in range(STEPS):
        logits = problem.logits(weights[active], bias[active])
        going = problem.residual(weights[active], logits, strength) > TOLERANCE
        if not bool(going.all()):
            problem, active, logits = problem.at(going), active[going], logits[going]
        if not len(active):
            return weights, bias
        step, step_bias = problem.step(weights[active], bias[active], logits, strength)
        length, moved = _damp(problem, weights[active], bias[active], step, step_bias, strength)
        weights[active] += length[:, None] * step
        bias[active] += length * step_bias
        if not bool(moved.any()):
            break
    logits = problem.logits(weights[active], bias[active])
    if bool((problem.residual(weights[active], logits, strength) > SETTLED).any()):
        raise AuditError(
            found=f"Logistic regression at strength {strength:g} did not settle in {STEPS} Newton steps",
            expected="a strength that the rows' scale allows",
            do="Use a smaller strength",
        )
    return weights, bias


def _damp(
    problem: _Primal | _Dual, weights: Tensor, bias: Tensor, step: Tensor, step_bias: Tensor, strength: float
) -> tuple[Float[Tensor, " fit"], Bool[Tensor, " fit"]]:
    """Per fit the first of 1, 1/2, 1/4, ... that does not raise the objective, and whether there was one."""

    def objective(length: Tensor) -> Tensor:
        at, at_bias = weights + length[:, None] * step, bias + length * step_bias
        return strength * problem.loss(problem.logits(at, at_bias)) + problem.penalty(at)

    length = torch.ones_like(bias)
    now = objective(torch.zeros_like(bias))
    # Rounding of the objective itself must not stop the last steps.
    limit = now + now.abs() * 1e-13
    for _ in range(30):
        worse = objective(length) > limit
        if not bool(worse.any()):
            break
        length = torch.where(worse, length / 2, length)
    worse = objective(length) > limit
    return torch.where(worse, 0.0, length), ~worse
