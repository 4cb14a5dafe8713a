"""Every supported family, end to end on tiny random checkpoints: it is read where it should be and carries nothing."""

from __future__ import annotations

import pytest
import shipped
import tiny

from audit.conduct import Setting, audit, doctor
from audit.plan import plan_of
from probes.site import Stream

STREAMS: tuple[Stream, ...] = ("resid_pre", "resid_post", "attn_out", "mlp_out")
GLANCE = {"effort": "glance", "personas": {"paths": [shipped.folder()]}}


@pytest.fixture(scope="module")
def verdicts(checkpoint, tmp_path_factory):
    """Verdicts of a random pair of each family; base has no chat template and borrows post's."""
    setting = Setting(store=tmp_path_factory.mktemp("store"), progress=False)
    made = {}

    def of(family):
        if family not in made:
            base, post = checkpoint(family, template=False), checkpoint(family, seed=1)
            made[family] = audit(plan_of(GLANCE), base=str(base), post=str(post), setting=setting)
        return made[family]

    return of


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_random_weights_carry_nothing(verdicts, family):
    record = verdicts(family)
    assert {verdict.verdict for verdict in record.verdicts} <= {"absent", "inconclusive"}, record.verdicts
    assert record.outcome.exit == 0
    assert record.pair.base.template == "post"


def test_random_weights_are_seldom_undecided(verdicts):
    given = [verdict.verdict for family in tiny.FAMILIES for verdict in verdicts(family).verdicts]
    assert given.count("inconclusive") <= len(given) / 20


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_doctor_proves_every_family_at_every_site(checkpoint, tmp_path, family):
    setting = Setting(store=tmp_path, progress=False)
    for stream in STREAMS:
        plan = plan_of({**GLANCE, "sites": {"stream": stream}})
        refs = str(checkpoint(family, template=False)), str(checkpoint(family, seed=1))
        checks = {check.check: check for check in doctor(plan, base=refs[0], post=refs[1], setting=setting).checks}
        for name in ("tokenizer", "vocabulary", "BOS", "chat template", "dtype", "cost"):
            assert checks[name].ok, checks[name]
        for side in ("base", "post"):
            for name in ("batching", "hooks", "determinism"):
                assert checks[f"{name} ({side})"].ok, checks[f"{name} ({side})"]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_verdicts(checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    refs = {"base": str(checkpoint("llama")), "post": str(checkpoint("llama", seed=1))}
    here, there = (
        audit(
            plan_of({**GLANCE, "pair": {"device": device}}),
            **refs,
            setting=Setting(store=tmp_path / device, progress=False),
        )
        for device in ("cpu", "cuda")
    )
    assert [v.verdict for v in here.verdicts] == [v.verdict for v in there.verdicts]
