"""Maps between models: each rung undoes its own planted change on held-out rows; unrelated rows stay unrelated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from probes.alignment import Alignment, TooFewRows, affine, frozen, recentre, recolour, rotate
from probes.digest import AuditError
from probes.moments import Moments

D, N = 16, 400
TRAIN = slice(0, 300)
TEST = slice(300, None)
GROUPS = [f"passage {i // 10}" for i in range(300)]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BASE = normal(N, D, seed=0) * torch.linspace(3, 0.5, D, dtype=torch.float64) @ torch.linalg.qr(normal(D, D, seed=1))[0]
BASE = BASE + 4
TURN = torch.linalg.qr(normal(D, D, seed=2))[0]
STRETCH = (lambda a: a @ a.T / D + 0.5 * torch.eye(D, dtype=torch.float64))(normal(D, D, seed=3))
CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "shift": lambda rows: rows + normal(D, seed=4) * 5,
    "recolour": lambda rows: rows @ STRETCH + 1,
    "rotate": lambda rows: rows @ TURN - 2,
    "affine": lambda rows: rows @ normal(D, D, seed=5) + 3,
    "unrelated": lambda rows: normal(*rows.shape, seed=6),
}
UNDOES = {
    "T0": set(),
    "T1": {"shift"},
    "T2": {"shift", "recolour"},
    "T3": {"shift", "rotate"},
    "T4": {"shift", "recolour", "rotate", "affine"},
}


def fit(rung: str, post: torch.Tensor, base: torch.Tensor) -> Alignment:
    rng = np.random.default_rng(0)
    if rung == "T0":
        return frozen(D)
    if rung == "T1":
        return recentre(post, base)
    if rung == "T2":
        return recolour(Moments.empty(D).update(post), Moments.empty(D).update(base))
    return (rotate if rung == "T3" else affine)(post, base, GROUPS, rng)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rung", UNDOES)
def test_a_rung_undoes_its_own_change_on_held_out_rows_and_no_other(rung: str, change: str) -> None:
    post = CHANGES[change](BASE)
    found = fit(rung, post[TRAIN].float(), BASE[TRAIN].float())
    wanted = BASE[TEST]
    r2 = 1 - float((found(post[TEST]) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())
    assert (r2 > 0.99) == (change in UNDOES[rung]), r2
    assert found.rung == rung
    if found.r2 is not None:
        assert found.r2 == pytest.approx(r2, abs=0.3) or r2 < 0


def test_bures_map_carries_covariance_onto_covariance_and_is_the_identity_for_an_unchanged_model() -> None:
    post = Moments.empty(D).update(BASE @ normal(D, D, seed=7))
    base = Moments.empty(D).update(BASE)
    found = recolour(post, base)
    torch.testing.assert_close(found.matrix.T @ post.covariance @ found.matrix, base.covariance, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.matrix, found.matrix.T)
    assert float(torch.linalg.eigvalsh(found.matrix)[0]) > 0
    torch.testing.assert_close(recolour(base, base).matrix, torch.eye(D, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_dimension_dead_in_both_models_maps_to_itself() -> None:
    rows = BASE.clone()
    rows[:, 3] = 1.0
    eye = torch.eye(D, dtype=torch.float64)
    doubled = recolour(Moments.empty(D).update(2 * rows), Moments.empty(D).update(rows)).matrix
    torch.testing.assert_close(doubled[3], eye[3], rtol=0, atol=1e-6)
    assert bool(torch.isfinite(affine(2 * rows[TRAIN], rows[TRAIN], GROUPS, np.random.default_rng(0)).matrix).all())


def test_rotation_is_orthogonal_and_noise_pulls_to_the_identity() -> None:
    eye = torch.eye(D, dtype=torch.float64)
    turned = fit("T3", BASE[TRAIN] @ TURN, BASE[TRAIN])
    torch.testing.assert_close(turned.matrix @ turned.matrix.T, eye, rtol=0, atol=1e-10)
    noisy = BASE + 0.2 * normal(N, D, seed=8)
    for rung in ("T3", "T4"):
        free, held = fit(rung, BASE[TRAIN] @ TURN, BASE[TRAIN]), fit(rung, noisy[TRAIN], BASE[TRAIN])
        assert held.strength > free.strength
        assert (held.matrix - eye).norm() < 0.5


def test_transport_takes_differences() -> None:
    found = fit("T4", CHANGES["affine"](BASE)[TRAIN], BASE[TRAIN])
    post = CHANGES["affine"](BASE)
    torch.testing.assert_close(found.transport(post[0] - post[1]), found(post[0]) - found(post[1]))
    torch.testing.assert_close(found.transport(post[0] - post[1]), BASE[0] - BASE[1], rtol=0, atol=0.1)


def test_the_same_generator_gives_the_same_map() -> None:
    post = BASE + 0.1 * normal(N, D, seed=9)
    assert torch.equal(fit("T4", post[TRAIN], BASE[TRAIN]).matrix, fit("T4", post[TRAIN], BASE[TRAIN]).matrix)


@pytest.mark.parametrize("rung", ["T2", "T3", "T4"])
def test_too_few_rows_are_refused_by_number(rung: str) -> None:
    with pytest.raises(TooFewRows, match=r"63 paired rows in 16 dimensions. Expected 64 or more"):
        if rung == "T2":
            fit(rung, BASE[:63], BASE[:63])
        (rotate if rung == "T3" else affine)(BASE[:63], BASE[:63], GROUPS[:63], np.random.default_rng(0))
    assert issubclass(TooFewRows, AuditError)


def test_rows_that_do_not_pair_up_or_do_not_vary_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(AuditError, match="same tokens"):
        affine(BASE[:300], BASE[:299], GROUPS, rng)
    with pytest.raises(AuditError, match="do not vary"):
        rotate(torch.ones(300, D), BASE[:300], GROUPS, rng)
    with pytest.raises(AuditError, match="do not vary"):
        recolour(Moments.empty(D).update(torch.ones(300, D)), Moments.empty(D).update(BASE))
    with pytest.raises(AuditError, match="0 rows of post"):
        recentre(BASE[:0], BASE)
    with pytest.raises(AuditError, match="NaN"):
        recentre(BASE / 0 * 0, BASE)
