"""A check inside a training run: the model in memory against its base, every so many steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from transformers.utils import logging

from audit.case import Outcome
from audit.checking import check
from audit.conduct import Setting
from audit.gate import Gate, Terms
from audit.plan import Plan, override, read_plan
from probes.digest import AuditError

STOPS: tuple[Outcome, ...] = ("regression",)


class Looked(NamedTuple):
    """One check: after how many steps, and its answer."""

    step: int
    gate: Gate


class AuditCallback(TrainerCallback):
    """Audits the model that a `transformers.Trainer` trains, and stops it where the gate says so.

    The first check is made before the first step: what an audit refuses is known at once. Later ones that end with an
    error are told and do not end the training. The model is left as it was: mode, gradients and random state.

    Attributes:
        looked: every check so far.
    """

    def __init__(
        self,
        plan: Plan | Path | str | None,
        every: int,
        *,
        stops: Sequence[Outcome] = STOPS,
        terms: Terms | None = None,
        setting: Setting | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Reads the plan; its effort counts as glance.

        Args:
            plan: names base; its dtype must be that of the model in training ("float32" for most).
            every: steps between checks.
            stops: outcomes that stop the training.
            terms: baseline, waivers and what fails; None for those of `Terms()`.
            setting: where recordings are kept; None for `Setting(progress=False)`.
            tokenizer: of the model; None for the trainer's processing class.

        Raises:
            AuditError: the plan cannot be read, or `every` is no number of steps.
        """
        if every < 1:
            raise AuditError(f"a check every {every} steps", "1 or more", "Change `every`")
        self.plan = override(plan if isinstance(plan, Plan) else read_plan(plan), effort="glance")
        self.every, self.stops, self.terms = every, tuple(stops), terms
        self.setting, self.tokenizer = setting or Setting(progress=False), tokenizer
        self.looked: list[Looked] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The first check. Raises AuditError where the audit itself ends with an error."""
        if state.is_world_process_zero:
            gate = self._look(state.global_step, kwargs)
            for case in gate.cases:
                if case.outcome == "error":
                    raise AuditError(f"The check before training: {case.sentence}", "an audit", "Mend plan or model")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A check every so many steps; stops the training where one comes to an outcome that does."""
        if state.is_world_process_zero and state.global_step % self.every == 0:
            gate = self._look(state.global_step, kwargs)
            if any(case.outcome in self.stops for case in gate.cases):
                control.should_training_stop = True

    def _look(self, step: int, told: dict[str, Any]) -> Gate:
        model, tokenizer = told["model"], self.tokenizer or told.get("processing_class")
        if tokenizer is None:
            raise AuditError("the trainer has no tokenizer", "one", "Give processing_class to it, or tokenizer here")
        modes = {part: part.training for part in model.modules()}
        devices = [one.device for one in model.parameters() if one.is_cuda][:1]
        model.eval()
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                gate = check(self.plan, [(model, tokenizer)], self.terms, self.setting).gate
        finally:
            for part, training in modes.items():
                part.training = training
        self.looked.append(Looked(step, gate))
        for case in gate.cases:
            if gate.fails(case):
                logging.get_logger("audit").warning(f"step {step}: {case.outcome}, {case.id}: {case.sentence}")
        return gate
