"""A check inside a training run: the model in memory against its base, every so many steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

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

One = TypeVar("One")
STOPS: tuple[Outcome, ...] = ("regression",)


class Looked(NamedTuple):
    """One check: after how many steps, and its answer."""

    step: int
    gate: Gate


class AuditCallback(TrainerCallback):
    """Audits the model that a `transformers.Trainer` trains, and stops it where the gate says so.

    The first check is made before the first step: what an audit refuses is known at once. Later ones that end with an
    error are told and do not end the training. The model is left as it was: mode, gradients, random state, threads.
    Where several processes train, the first one checks and the others wait for what it found.

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
        unknown = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop not in get_args(Outcome)]
        if isinstance(stops, str) or unknown:
            found = f"stops = {stops!r}"
            raise AuditError(found, f"a list of some of: {', '.join(get_args(Outcome))}", "Change `stops`")
        self.plan = override(plan if isinstance(plan, Plan) else read_plan(plan), effort="glance")
        self.every, self.stops, self.terms = every, tuple(stops), terms
        self.setting, self.tokenizer = setting or Setting(progress=False), tokenizer
        self.looked: list[Looked] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The first check. Raises AuditError where the audit itself ends with an error."""
        refused = None
        if state.is_world_process_zero:
            try:
                cases = self._look(state.global_step, kwargs).cases
                refused = next((case.sentence for case in cases if case.outcome == "error"), None)
            except AuditError as error:
                refused = str(error)
        refused = _from_first(refused)
        if refused is not None:
            raise AuditError(f"The check before training: {refused}", "an audit", "Mend plan or model")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A check every so many steps; stops the training where one comes to an outcome that does."""
        if state.global_step % self.every:
            return
        stop = False
        if state.is_world_process_zero:
            try:
                stop = any(case.outcome in self.stops for case in self._look(state.global_step, kwargs).cases)
            except AuditError as error:
                logging.get_logger("audit").warning(f"step {state.global_step}: no check could be made. {error}")
        if _from_first(stop):
            control.should_training_stop = True

    def _look(self, step: int, told: dict[str, Any]) -> Gate:
        model, tokenizer = told["model"], self.tokenizer or told.get("processing_class")
        if tokenizer is None:
            raise AuditError("the trainer has no tokenizer", "one", "Give processing_class to it, or tokenizer here")
        modes = {part: part.training for part in model.modules()}
        devices = [one.device for one in model.parameters() if one.is_cuda][:1]
        threads = torch.get_num_threads()
        model.eval()
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                gate = check(self.plan, [(model, tokenizer)], self.terms, self.setting).gate
        finally:
            for part, training in modes.items():
                part.training = training
            torch.set_num_threads(threads)
        self.looked.append(Looked(step, gate))
        for case in gate.cases:
            if gate.fails(case):
                logging.get_logger("audit").warning(f"step {step}: {case.outcome}, {case.id}: {case.sentence}")
        return gate


def _from_first(found: One) -> One:
    """What the first of the training processes found: all must stop at one step, or some wait for ever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    told = [found]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]
