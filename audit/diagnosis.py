"""Proves the pair before a number is computed: each check says what was found, what was expected and what to do.

A check that fails, or cannot be made, does not stop the others. `examine` runs the checks that an audit itself needs
and that cost next to nothing; `prove` adds those that load TransformerLens or time the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Protocol

import torch

from audit.pair import Recorder
from audit.texts import Texts, judged
from audit.workload import Forecast
from probes.checkpoint import first_line
from probes.digest import AuditError
from probes.passage import Passage
from probes.recorder import record
from probes.site import Site

if TYPE_CHECKING:
    from probes.model import Subject

SAMPLE = 12
"""Passages that the checks which run the model use: short and long ones."""
TOLERANCE = {"float32": 1e-4, "float64": 1e-6, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference between two ways of computing the same row, in root mean squares of the site."""
D_PRIME = 2.0
"""Effect at which expected reliability is stated: AUROC 0.92 for the ideal direction."""
RELIABLE = 0.5
"""Reliability for which the number of pairs is stated."""


class Shaped(Protocol):
    """A model, or one that is known by its configuration alone."""

    @property
    def n_layers(self) -> int:
        """Blocks."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...


@dataclass(frozen=True)
class Checked:
    """One check in three beats."""

    check: str
    found: str
    expected: str
    do: str
    ok: bool


@dataclass(frozen=True)
class Doctor:
    """Every check of one pair, in order."""

    checks: tuple[Checked, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing has to be done."""
        return all(check.ok for check in self.checks)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'✓' if c.ok else '✗'}</td><td>{escape(c.check)}</td><td>{escape(c.found)}</td>"
            f"<td>{escape(c.expected)}</td><td>{'' if c.ok else escape(c.do)}</td></tr>"
            for c in self.checks
        )
        return f"<table><tr><th></th><th>check</th><th>found</th><th>expected</th><th>do this</th></tr>{rows}</table>"


def same_shape(base: Shaped, post: Shaped) -> None:
    """Refuses a pair whose sites cannot be paired.

    Raises:
        AuditError: another depth or another width.
    """
    for what, ours, theirs in (("layers", base.n_layers, post.n_layers), ("dimensions", base.d_model, post.d_model)):
        if ours != theirs:
            raise AuditError(
                f"post has {theirs} {what}, base has {ours}: their sites cannot be paired",
                "two models of one architecture", "Audit the base that post was trained from",
            )  # fmt: skip


def same_dtype(base: Subject, post: Subject) -> None:
    """Refuses a pair that would be read at two precisions: their rounding would look like a change.

    Raises:
        AuditError: another dtype.
    """
    if base.dtype != post.dtype:
        raise AuditError(
            f"base is {base.dtype}, post is {post.dtype}", "one dtype for both",
            "Set pair.dtype to float32 or bfloat16",
        )  # fmt: skip


def examine(texts: Texts, recorder: Recorder) -> list[Checked]:
    """The checks that need no forward pass: tokens, vocabulary, BOS, template, dtype, groups."""
    base, post = recorder.base, recorder.post
    judged = [passage for passages in texts.passages.values() for passage in passages]
    everything = [*judged, *texts.plain]
    return [
        _tried(texts, "tokenizer", _tokenizers, texts, base, post, len(everything)),
        _tried(texts, "vocabulary", _vocabularies, base, post, everything),
        _tried(texts, "BOS", _bos, base, everything),
        Checked("chat template", f"taken from {texts.template_from}" if texts.template else "none anywhere",
                "a template both models are read under", "Set pair.template to a jinja file",
                texts.template is not None),
        Checked("dtype", f"base {base.dtype}, post {post.dtype}", "the same in both",
                "Set pair.dtype to float32 or bfloat16", base.dtype == post.dtype),
        _tried(texts, "reliability of directions", reliability, texts, base.d_model),
    ]  # fmt: skip


def prove(texts: Texts, recorder: Recorder, sites: Sequence[Site], forecast: Callable[[], Forecast]) -> Doctor:
    """Every check, those that run both models included.

    Args:
        forecast: predicts the run's cost; it runs both models too.
    """
    some = _sample([passage for passages in texts.passages.values() for passage in passages])
    checks = examine(texts, recorder)
    for name, subject in (("base", recorder.base), ("post", recorder.post)):
        checks += [
            _tried(texts, f"batching ({name})", _batching, name, subject, some, sites),
            _tried(texts, f"hooks ({name})", _bridge, name, subject, some, sites),
            _tried(texts, f"determinism ({name})", _repeats, name, subject, some, sites),
        ]
    checks.append(_tried(texts, "surprisal", _surprisal, some, recorder))
    checks.append(_tried(texts, "cost", cost, forecast))
    return Doctor(tuple(checks))


def _tried(texts: Texts, check: str, make: Callable[..., Checked], *given: object) -> Checked:
    """The check, or, where it cannot be made, a failed one that says why."""
    try:
        return make(*given)
    except AuditError as error:
        return Checked(check, texts.named(error.found), error.expected, error.do, False)
    except Exception as error:  # transformers and TransformerLens raise kinds of their own
        found = f"it stopped with {type(error).__name__} ({first_line(error)})"
        return Checked(check, found, "a check that can be made", "Name the architecture in an issue", False)


def _sample(passages: Sequence[Passage]) -> list[Passage]:
    ordered = sorted(dict.fromkeys(passages), key=lambda passage: len(passage.token_ids))
    step = max(1, len(ordered) // SAMPLE)
    return ordered[::step][:SAMPLE]


def _tokenizers(texts: Texts, base: Subject, post: Subject, count: int) -> Checked:
    same = base.tokenizer_digest == post.tokenizer_digest
    named = ", ".join(excluded.pair for excluded in texts.excluded[:5])
    plain = sum(excluded.persona is None for excluded in texts.excluded)
    long = sum("longer than" in excluded.reason for excluded in texts.excluded)
    apart = f"{len(texts.excluded) - plain - long} pairs and {plain} plain texts split differently"
    apart += f", {long} pairs too long" if long else ""
    found = "one tokenizer" if same else f"two tokenizers, {count} passages split alike, {apart}"
    return Checked(
        "tokenizer", found + (f": {named}" if named else ""), "the same token ids for every passage",
        "Leave out what is named, or audit models of one family", not texts.excluded,
    )  # fmt: skip


def _vocabularies(base: Subject, post: Subject, passages: Sequence[Passage]) -> Checked:
    largest = max((max(passage.token_ids) for passage in passages), default=0)
    room = min(base.vocab_size, post.vocab_size)
    return Checked(
        "vocabulary", f"base {base.vocab_size} rows, post {post.vocab_size}, largest id {largest}",
        "every id inside both embeddings",
        "Resize the embeddings, or use the tokenizer the model was trained with", largest < room,
    )  # fmt: skip


def _bos(base: Subject, passages: Sequence[Passage]) -> Checked:
    bos = base.tokenizer.bos_token_id
    adds = bos is not None and bos in base.tokenizer("a")["input_ids"]
    counts = [passage.token_ids.count(bos) if bos is not None else 0 for passage in passages]
    wrong = sum(count != int(adds) for count in counts) if adds else sum(count > 1 for count in counts)
    found = f"{'a' if adds else 'no'} BOS is prepended by the tokenizer; {wrong} of {len(passages)} passages differ"
    return Checked(
        "BOS", found, "exactly one where the tokenizer prepends one", "Mend the chat template's BOS", wrong == 0
    )


def reliability(texts: Texts, width: int) -> Checked:
    """Expected cosine of two independent mean-difference directions, d'^2 / (d'^2 + 2 d / n) in whitened coordinates.

    Stated and never refused: hardly a real model has width / 2 pairs, and where data are short a verdict turns
    inconclusive by itself.
    From E[cos] ~ |mu|^2 / (|mu|^2 + tr(Sigma)(1/n1 + 1/n0)) with Sigma = I, n pairs on either side.
    """
    fewest = {
        name: min(sum(p.label == 1 for p in judged(passages, domain)) for domain in ("story", "assistant"))
        for name, passages in texts.passages.items()
    }
    name, pairs = min(fewest.items(), key=lambda item: item[1])
    expected = D_PRIME**2 / (D_PRIME**2 + 2 * width / max(1, pairs))
    need = math.ceil(2 * width * RELIABLE / ((1 - RELIABLE) * D_PRIME**2))
    return Checked(
        "reliability of directions",
        f"{expected:.2f} at {width} dimensions and {pairs} pairs ('{name}', d' = {D_PRIME:g}, no shrinkage)",
        f"what your texts allow; {RELIABLE:g} would take {need} pairs a domain",
        "Give more pairs where an interval does not decide", True,
    )  # fmt: skip


def _largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, in root mean squares of the site."""
    scale = one.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return float(((one - other).abs() / scale).max())


def _batching(name: str, subject: Subject, some: Sequence[Passage], sites: Sequence[Site]) -> Checked:
    together = record(subject, some, sites, progress=False, token_budget=4_096).values
    alone = torch.cat([record(subject, [passage], sites, progress=False).values for passage in some])
    apart, allowed = _largest(together, alone), TOLERANCE.get(subject.dtype, 1e-2)
    return Checked(
        f"batching ({name})", f"a mixed-length batch differs from batches of one by {apart:.1e} at {len(sites)} sites",
        f"at most {allowed:g}", "Look for a mask or position bug in the model", apart <= allowed,
    )  # fmt: skip


def _bridge(name: str, subject: Subject, some: Sequence[Passage], sites: Sequence[Site]) -> Checked:
    """The hook on the block against TransformerLens's site of that name."""
    label, advice = f"hooks ({name})", "Name the architecture in an issue: its sites are not proved"
    try:
        bridge = subject.bridge()
    except Exception as error:  # TransformerLens raises its own kinds for architectures it does not know
        return Checked(
            label,
            f"TransformerLens cannot wrap it ({first_line(error)[:80]})",
            "a bridge to compare with",
            advice,
            False,
        )
    passage = some[-1]
    ids = torch.tensor([passage.token_ids], device=subject.device)
    names = [site.hook_name for site in sites]
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(ids, names_filter=names, return_type=None)
    ours = record(subject, [passage], sites, progress=False).values[0]
    start, end = passage.span
    theirs = torch.stack([cache[hook][0, start:end].float().mean(0).cpu() for hook in names])
    apart, allowed = _largest(ours, theirs), TOLERANCE.get(subject.dtype, 1e-2)
    return Checked(
        label,
        f"differ from TransformerLens's {names[0]} and {len(names) - 1} more by {apart:.1e}",
        f"at most {allowed:g}",
        advice,
        apart <= allowed,
    )


def _repeats(name: str, subject: Subject, some: Sequence[Passage], sites: Sequence[Site]) -> Checked:
    one, other = (record(subject, some, sites, progress=False).values for _ in range(2))
    same = bool(torch.equal(one, other))
    found = "two recordings are bit-identical" if same else f"two recordings differ by {_largest(one, other):.1e}"
    return Checked(
        f"determinism ({name})", found, "bit-identical", "Fix the thread count, or expect digests to differ", same
    )


def _surprisal(some: Sequence[Passage], recorder: Recorder) -> Checked:
    values = {}
    for name, subject in (("base", recorder.base), ("post", recorder.post)):
        read = record(subject, some, (), surprisal=True, progress=False).surprisal
        values[name] = float(read.double().mean()) if read is not None else math.nan
    limit = math.log(recorder.base.vocab_size)
    found = ", ".join(f"{name} {value:.2f}" for name, value in values.items()) + " nats a token over the scored spans"
    return Checked("surprisal", found, f"below {limit:.1f} (a guess among the vocabulary)",
                   "The texts are not what these models say: write others", max(values.values()) < limit)  # fmt: skip


def cost(forecast: Callable[[], Forecast]) -> Checked:
    """What a first run will take. Stated and never refused."""
    found = forecast()
    return Checked("cost", f"about {found.seconds:.0f} s and {found.bytes / 1e6:.1f} MB in the store",
                   "what you can spare", "Choose fewer layers or personas, or a lower effort", True)  # fmt: skip
