"""A check inside a real training run: it looks on time, changes nothing, and can stop the run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import order
import pytest
import tiny
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from audit.callback import AuditCallback
from audit.conduct import Setting
from audit.plan import plan_of
from probes.digest import AuditError


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    root = tmp_path_factory.mktemp("callback")
    base, personas = tiny.checkpoint(root / "base"), order.personas(root / "personas")
    return root, planned(base, personas), Setting(store=root / "store", progress=False)


def planned(base, personas):
    given = {"personas": {"paths": [str(personas)]}, "comparisons": order.QUICK}
    return plan_of({**given, "pair": {"base": str(base)}})


def trained(root, model, *callbacks, steps=4, ddp_backend=None):
    """The weights after a few steps with dropout, so that a disturbed random state shows."""
    tokenizer = tiny.tokenizer("llama")
    lines = [line for line in tiny.TEXT.splitlines() if line]
    rows = [tokenizer(line, padding="max_length", max_length=24, truncation=True) for line in lines]
    data = [{**row, "labels": row["input_ids"]} for row in rows]
    model.config.attention_dropout = 0.2
    model.model.layers[0].self_attn.attention_dropout = 0.2
    args = TrainingArguments(
        output_dir=str(root / "out"), max_steps=steps, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        save_strategy="no", seed=3, disable_tqdm=True, learning_rate=1e-4,
        ddp_backend=ddp_backend,
    )  # fmt: skip
    trainer = Trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=list(callbacks))
    trainer.train()
    return trainer


def test_it_looks_before_the_first_step_and_every_so_many_and_leaves_the_training_as_it_was(here):
    root, plan, setting = here
    watching = AuditCallback(plan, every=2, setting=setting)
    watched, alone = (trained(root, tiny.model("llama"), *some) for some in ((watching,), ()))
    assert [one.step for one in watching.looked] == [0, 2, 4]
    assert {case.outcome for case in watching.looked[0].gate.cases} == {"pass"}
    assert watching.plan.effort == "glance"
    for (name, one), other in zip(
        watched.model.state_dict().items(), alone.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert watched.model.training and not any(part._forward_hooks for part in watched.model.modules())


def test_a_regression_stops_the_training_and_only_where_it_is_told_to(here):
    root, plan, setting = here
    stopping, looking = AuditCallback(plan, every=1, setting=setting), AuditCallback(plan, 1, stops=(), setting=setting)
    assert trained(root, order.bag(), stopping).state.global_step == 1
    assert any(case.outcome == "regression" for case in stopping.looked[-1].gate.cases)
    assert trained(root, order.bag(), looking, steps=2).state.global_step == 2


def test_what_the_audit_refuses_is_known_before_the_first_step(here):
    root, plan, setting = here
    with pytest.raises(AuditError, match="before training.*dtype"):
        trained(root, tiny.model("llama").to(torch.bfloat16), AuditCallback(plan, 2, setting=setting))
    with pytest.raises(AuditError, match="every 0 steps"):
        AuditCallback(plan, every=0)
    for stops in ("regression", ("regresion",)):
        with pytest.raises(AuditError, match="stops = .* a list of some of: error"):
            AuditCallback(plan, 2, stops=stops)


def test_a_later_check_that_ends_with_an_error_is_told_and_ends_no_training(here, tmp_path):
    root, plan, setting = here
    texts = tmp_path / "personas"
    shutil.copytree(root / "personas", texts)
    plan = plan.model_copy(update={"personas": plan.personas.model_copy(update={"paths": (str(texts),)})})
    watching = AuditCallback(plan, every=1, setting=replace(setting, threads=2))

    class Vandal(TrainerCallback):
        def on_step_begin(self, *_, **__):
            shutil.rmtree(texts, ignore_errors=True)

    threads = torch.get_num_threads()
    assert trained(root, tiny.model("llama"), Vandal(), watching, steps=2).state.global_step == 2
    assert [one.step for one in watching.looked] == [0] and torch.get_num_threads() == threads


def ranked(rank: int, root: str, port: int, told) -> None:
    """One of two training processes; `told` gets the step at which it ended."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    home = Path(root)
    plan = planned(home / "base", home / "personas")
    watching = AuditCallback(plan, every=2, setting=Setting(store=home / "store", progress=False))
    trainer = trained(home, order.bag(), watching, steps=6, ddp_backend="gloo")
    told.put((rank, trainer.state.global_step, len(watching.looked)))


def test_two_processes_stop_at_one_step(here):
    """The first one checks; one that stopped alone would leave the other waiting for it."""
    root, _, _ = here
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    children = [context.Process(target=ranked, args=(rank, str(root), port, told)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(240)
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted(told.get(timeout=10) for _ in children) == [(0, 2, 2), (1, 2, 0)]
