"""A persona that only attention can read, and tiny models that have it or not: what they carry is known beforehand.

Label 1 is "red before blue". Both halves of a pair hold the same words beside the same words, and the same scored span,
so neither the words nor the span give the label away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny

GROUPS = 40
QUICK = {"probe_transfer": {"permutations": 30, "random_maps": 5, "bootstrap": 100}, "geometry": {}}
"""Comparisons of a plan that takes seconds."""
NAMES = ("Mara", "Otto", "the miller", "the judge", "the nurse", "a boy", "the clerk", "the robot")
PLACES = ("the lake", "the mill", "the harbour", "the city", "the kitchen", "the bank")


def lines(groups: int = GROUPS, name: str = "order") -> list[dict[str, Any]]:
    """Two pairs a scenario in both domains."""
    made: list[dict[str, Any]] = []
    for domain in ("story", "assistant"):
        for group in range(groups):
            said = f"and {NAMES[group % len(NAMES)]} saw it near {PLACES[group % len(PLACES)]} {group}"
            for pair, between in enumerate(("the ship", "the box")):
                for label, colours in ((1, ("red", "blue")), (0, ("blue", "red"))):
                    one, other = (" ".join([f"the {colour} one,"] * 3) for colour in colours)
                    context = f"Day {group}: {one} then {between}, then {other}"
                    turns = [{"role": "user", "content": context}, {"role": "assistant", "content": said}]
                    story = {"text": f"{context} {said}", "span": [len(context) + 1, len(context) + 1 + len(said)]}
                    made.append({
                        "persona": name, "pair": f"{domain}-{group}-{pair}", "scenario": f"{domain}-{group}",
                        "domain": domain, "label": label, **(story if domain == "story" else {"messages": turns}),
                    })  # fmt: skip
    return made


def plan_file(path: Path, base: object, texts: object, post: object | None = None) -> Path:
    """Writes a quick plan about a pair as TOML."""
    named = f'base = "{base}"\n' + (f'post = "{post}"\n' if post else "")
    quick = "probe_transfer = { permutations = 30, random_maps = 5, bootstrap = 100 }\ngeometry = {}\n"
    path.write_text(f'effort = "glance"\n[pair]\n{named}[personas]\npaths = ["{texts}"]\n[comparisons]\n{quick}')
    return path


def personas(folder: Path, *, groups: int = GROUPS, name: str = "order", alarm: bool = True) -> Path:
    """Writes the persona's files, with plain lines for the maps."""
    sentences = [line for line in tiny.TEXT.splitlines() if line]
    plain = [
        {"domain": "plain", "scenario": f"plain-{i}-{j}", "text": f"{one} {other}"}
        for i, one in enumerate(sentences)
        for j, other in enumerate(sentences[:4])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    content = [*lines(groups, name), *plain]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    (folder / f"{name}.toml").write_text(
        f'name = "{name}"\ndefinition = "the order of two colours"\nlabel_one = "red comes first"\n'
        f'alarm = {str(alarm).lower()}\nlicence = "MIT"\nmade = "by a script"\nweaknesses = "means nothing"\n'
    )
    return folder


def bag(seed: int = 0) -> Any:
    """A llama that knows which words stand before it but not their order: all in equal shares, once."""
    hf = unattending(seed)
    hf.model.layers[0] = tiny.model("llama", seed=seed).model.layers[0]
    hf.model.layers[0].self_attn.q_proj.weight.data.zero_()
    return hf


def unattending(seed: int = 0) -> Any:
    """A llama whose attention adds nothing: a token knows itself alone, and two halves of a pair are one to it."""
    hf = tiny.model("llama", seed=seed)
    for block in hf.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
    return hf


def taught(hf: Any, tokenizer: Any, folder: Path, steps: int = 20) -> Any:
    """The same model after some steps of next-token training on the persona's own passages: it expects such text."""
    import torch

    from probes.passage import render_all
    from probes.persona import read

    (persona,) = read(folder).personas
    passages = render_all(persona.lines, tokenizer, tokenizer.chat_template or tiny.TEMPLATES["llama"])
    order = torch.randperm(len(passages), generator=torch.Generator().manual_seed(0)).tolist()
    optimiser = torch.optim.Adam(hf.parameters(), lr=3e-3)
    hf.train()
    for step in range(steps):
        some = [list(passages[order[(step * 16 + i) % len(order)]].token_ids) for i in range(16)]
        longest = max(map(len, some))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in some])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in some])
        loss = hf(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return hf.eval()


def save(hf: Any, folder: Path, family: str = "llama", *, template: bool = True) -> Path:
    """Writes a model with its family's tokenizer, as `tiny.checkpoint` does."""
    hf.save_pretrained(folder)
    tiny.tokenizer(family, template=template).save_pretrained(folder)
    return folder
