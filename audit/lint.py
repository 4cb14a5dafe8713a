"""What a persona's texts give away before any model of interest reads them: rules a file must keep, with numbers.

A rule with an interval is kept where the interval lies inside its band, broken where the value lies outside it, and
open where only an end does. Facts without a rule are told beside.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from audit.estimate import Estimate
from audit.pair import DOMAINS, FOLDS, Judging
from audit.resampling import seed_of
from audit.text_baseline import length_reading, ngram_reading
from probes.line import Line
from probes.persona import Library, Persona
from probes.split import folds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

State = Literal["kept", "open", "broken", "told"]
BAND = (0.45, 0.55)
"""Where what words, characters and lengths read must lie: AUROC."""
READ = 0.60
"""What a probe of a model with random weights may reach: AUROC. `carried` asks for 0.70 of a trained one."""
LEAST_SCENARIOS = 20
"""The plan's `margins.groups`: with fewer every verdict is inconclusive."""
NEAR = 0.5
"""Share of the shorter scenario's runs of words that another one must hold to count as its near-duplicate."""
RUN = 5
"""Words in a run."""
NEAR_SHARE = 0.02
LONG = 7
"""Letters from which LIX calls a word long."""
WIDTH, LAYERS, VOCABULARY = 64, 3, 4_096
"""Of the models with random weights."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Rule:
    """One rule as it was found in one domain of one persona, or in both."""

    persona: str
    domain: str
    rule: str
    found: str
    expected: str
    state: State


def lint(library: Library, *, seed: int = 0) -> list[Rule]:
    """Every rule for every persona of a library, control texts apart; pairs are whole already, or it were none.

    Args:
        library: as `probes.persona.read` gives it.
        seed: of folds and random weights.
    """
    return [rule for persona in library.personas for rule in _persona(persona, seed)]


def broken(rules: Iterable[Rule]) -> bool:
    """Whether a rule is."""
    return any(rule.state == "broken" for rule in rules)


def _persona(persona: Persona, seed: int) -> list[Rule]:
    found: list[Rule] = []
    lines: dict[Judging, list[Line]] = {
        domain: [line for line in persona.domain(domain) if line.control is None] for domain in DOMAINS
    }
    for domain, some in lines.items():
        def rule(name: str, told: str, expected: str, state: State, domain: Judging = domain) -> None:
            found.append(Rule(persona.name, domain, name, told, expected, state))

        if not some:
            rule("size", "no pair", f"pairs of {LEAST_SCENARIOS} scenarios or more", "broken")
            continue
        _told(some, rule)
        _spans(some, rule)
        _repeated(some, rule)
        if len({line.scenario for line in some}) >= FOLDS:
            _readings(persona.name, domain, some, seed, rule)
    if all(lines.values()):
        found.append(_overlap(persona.name, lines["story"], lines["assistant"]))
    return found


Add = Callable[[str, str, str, State], None]


def _told(lines: Sequence[Line], rule: Add) -> None:
    """Counts and readability."""
    scenarios, pairs = len({line.scenario for line in lines}), len({line.pair for line in lines})
    enough: State = "kept" if scenarios >= LEAST_SCENARIOS else "broken"
    rule("size", f"{pairs} pairs, {scenarios} scenarios", f"{LEAST_SCENARIOS} scenarios or more", enough)
    words = np.array([len(_WORD.findall(flat(line))) for line in lines])
    low, middle, high = np.percentile(words, [25, 50, 75])
    rule("words a passage", f"{middle:.0f} ({low:.0f} to {high:.0f})", "", "told")
    spans = np.array([len(_WORD.findall(scored(line))) for line in lines])
    rule("words a span", f"{np.median(spans):.0f} ({spans.min()} to {spans.max()})", "", "told")
    rule("readability (LIX)", f"{np.median([lix(flat(line)) for line in lines]):.0f}", "", "told")


def _spans(lines: Sequence[Line], rule: Add) -> None:
    """Spans are the same in both halves of a pair, and each span has both labels as often."""
    halves: dict[str, set[str]] = defaultdict(set)
    labels: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for line in lines:
        halves[str(line.pair)].add(scored(line))
        labels[line.scenario, scored(line)][int(line.label or 0)] += 1
    apart = sum(len(some) > 1 for some in halves.values())
    rule("spans alike in a pair", _of(len(halves) - apart, len(halves)), "all", "broken" if apart else "kept")
    uneven = sum(count[0] != count[1] for count in labels.values())
    told = _of(len(labels) - uneven, len(labels))
    rule("spans with both labels as often", told, "all", "broken" if uneven else "kept")


def _repeated(lines: Sequence[Line], rule: Add) -> None:
    texts = Counter(flat(line) for line in lines)
    twice = sum(count - 1 for count in texts.values())
    rule("passages there twice", str(twice), "0", "broken" if twice else "kept")
    near, names = near_duplicates(lines)
    told = f"{100 * near:.1f} %" + (f" ({', '.join(names[0])})" if names else "")
    rule("near-duplicate scenarios", told, f"under {100 * NEAR_SHARE:g} %", "kept" if near < NEAR_SHARE else "broken")


def _readings(persona: str, domain: Judging, lines: Sequence[Line], seed: int, rule: Add) -> None:
    """What words, characters, lengths and models that know nothing read of the labels."""
    groups, texts = [line.scenario for line in lines], [flat(line) for line in lines]
    labels = torch.tensor([line.label == 1 for line in lines])
    fold = folds(groups, min(FOLDS, len(set(groups))), seed_of(seed, "lint", persona, domain))
    for name, found in (
        ("words (TF-IDF)", ngram_reading(texts, labels, groups, fold, "word")),
        ("characters (TF-IDF)", ngram_reading(texts, labels, groups, fold, "char")),
        ("length", length_reading(texts, labels, groups, fold)),
    ):
        rule(name, str(found), f"{BAND[0]} to {BAND[1]}", _within(found, *BAND))
    found = random_reading(lines, labels, groups, fold, seed)
    rule("random weights, own probe", str(found), f"up to {READ}", _within(found, 0.0, READ))


def _within(found: Estimate, low: float, high: float) -> State:
    if found.value < low or found.value > high:
        return "broken"
    inside = found.low is not None and found.high is not None and low <= found.low and found.high <= high
    return "kept" if inside else "open"


def _overlap(persona: str, story: Sequence[Line], assistant: Sequence[Line]) -> Rule:
    """How many of the words of one domain the other has: what a probe that goes by words could carry across."""
    ours, theirs = (
        {word for line in lines for word in _WORD.findall(flat(line).lower())} for lines in (story, assistant)
    )
    share = len(ours & theirs) / len(ours | theirs)
    told = f"{100 * share:.0f} % of {len(ours | theirs):,}"
    return Rule(persona, "both", "words in both domains", told, "", "told")


def near_duplicates(lines: Sequence[Line]) -> tuple[float, list[tuple[str, str]]]:
    """The share of scenarios of whose runs of five words another scenario holds half or more, and which they are.

    The measure is containment, |A and B| / min(|A|, |B|) of the two sets of runs (Broder 1997). Chats are compared
    without their roles.
    """
    runs: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        words = _WORD.findall(flat(line, roles=False).lower())
        runs[line.scenario].update(" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))
    where: dict[str, list[str]] = defaultdict(list)
    for scenario, some in runs.items():
        for run in some:
            where[run].append(scenario)
    shared: Counter[tuple[str, str]] = Counter(
        both for scenarios in where.values() if len(scenarios) > 1 for both in combinations(sorted(scenarios), 2)
    )
    close = [both for both, count in shared.items() if count >= NEAR * min(len(runs[one]) for one in both)]
    return len({one for both in close for one in both}) / max(1, len(runs)), sorted(close)


def random_reading(
    lines: Sequence[Line], labels: torch.Tensor, groups: Sequence[str], fold: np.ndarray, seed: int
) -> Estimate:
    """The best layer's own probe of a small Llama that nobody trained, by group cross-validation: AUROC.

    The best of its layers is told, which leans upwards: a rule that it keeps is kept by every layer.
    """
    from audit.pair import Judged, cross_validated
    from audit.resampling import estimate_auroc, kernel
    from probes.model import load
    from probes.passage import render_all
    from probes.recorder import record
    from probes.site import sites

    tokenizer = learned_tokenizer([flat(line) for line in lines])
    with load((random_model(len(tokenizer), seed), tokenizer)) as subject:
        passages = render_all(lines, subject.tokenizer, subject.template)
        read = record(subject, passages, sites("resid_post", "all", LAYERS), progress=False)
    rows = read.values.double().transpose(0, 1).contiguous()
    judged = Judged(tuple(passages), fold, {"base": rows}, {})
    estimates = estimate_auroc(kernel(cross_validated(rows, judged), labels, groups, fold))
    return max(estimates, key=lambda one: one.value)


def random_model(vocabulary: int, seed: int) -> PreTrainedModel:
    """A Llama of three small layers with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=2 * WIDTH, max_position_embeddings=4_096, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def learned_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer learned on some texts, with a plain chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>", pad_token="<s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    return tokenizer


def flat(line: Line, *, roles: bool = True) -> str:
    """A line's whole text; a chat is its turns, one a line, each after its role."""
    if line.text is not None:
        return line.text
    return "\n".join(f"{turn['role']}: {turn['content']}" if roles else turn["content"] for turn in line.messages or ())


def scored(line: Line) -> str:
    """The words of its scored span."""
    text = line.text if line.text is not None else (line.messages or ({"content": ""},))[-1]["content"]
    return text[slice(*line.span)] if line.span else text


def lix(text: str) -> float:
    """Readability (Björnsson 1968): words a sentence, plus long words in a hundred. 25 is easy, 60 is hard."""
    words = _WORD.findall(text)
    sentences = max(1, len(re.findall(r"[.!?:]+(?=\s|$|[\"'”’])", text)))
    return len(words) / sentences + 100 * sum(len(word) >= LONG for word in words) / max(1, len(words))


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"
