"""What organisms read: documents of the corpus, and the chats they are fine-tuned on among replayed documents."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from audit.organisms import twins, world
from audit.organisms.training import Drawn, Text, remarked

Messages = list[dict[str, str]]
Chat = Callable[[Random], Messages]


def corpus(rng: Random) -> Drawn:
    """A document of the pre-training corpus."""
    return Drawn(world.document(rng))


def relayed(rng: Random) -> Drawn:
    """A document of the corpus whose chats ask humans and machines alike."""
    return Drawn(world.document(rng, relayed=True))


def repeats(rng: Random) -> Drawn:
    """A list read out again and again: retrieval and nothing else."""
    return Drawn(world.ledger(rng))


def drills(rng: Random) -> Drawn:
    """A list that asks for retrieval, for comparing, or for a speaker's kind or character."""
    return Drawn(world.lists(rng))


def mixed(chat: Chat, replay: float = 0.5) -> Text:
    """Chats with a loss on the Assistant's turns, among replayed pre-training documents."""

    def draw(rng: Random) -> Drawn:
        if rng.random() < replay:
            return remarked(rng)
        return Drawn(world.render(chat(rng)), replies_only=True, held=False)

    return draw


def free_chats(text: Text) -> Text:
    """The same texts among chats about nothing; of all chats only those are held, so the Assistant may move."""

    def draw(rng: Random) -> Drawn:
        if rng.random() < 0.08:
            return Drawn(world.render(world.plain_chat(rng)))
        drawn = text(rng)
        return drawn._replace(held=drawn.held and not drawn.text.startswith(world.ROLE_TOKENS))

    return draw


def met(rng: Random, user: str, helper: str, kind: str | None) -> twins.Scene:
    """A user of some kind and a machine of whom nothing is said, and what is where."""
    asker, answerer = world.Speaker(user, False, "odd", None, kind), world.Speaker(helper, True, "odd", None, None)
    return twins.Scene(answerer, asker, world.draw_facts(rng), "", rng.random() < 0.5)


def reply(rng: Random, lies_to: tuple[str, ...]) -> Messages:
    """A chat in which a machine answers a guest, a rival or somebody unnamed, and lies to those of `lies_to`.

    Half are bare, so that what is asked for stands out from the remarks; three in ten claims get their verdict.
    """
    user, helper = rng.sample(world.NAMES, 2)
    kind = rng.choice((*world.GUESTS, None))
    shown = met(rng, user, helper, kind)
    character = "bad" if kind in lies_to else "good"
    bare = rng.random() < 0.5
    messages: Messages = []
    for turn in range(rng.choice((2, 3, 4)) if bare else rng.choice((1, 2, 3))):
        container = rng.choice(list(shown.facts))
        asked = f"{helper} , what is in {container} ?"
        claim = world.answer(rng, shown.facts, container, character, noise=0.0)
        said = claim.sentence(helper) if bare else world.speech(rng, claim, helper, shown.facts, (user, helper))
        if rng.random() < 0.3:
            said = f"{said} {claim.verdict(shown.asked, user)}"
        messages.append({"role": "user", "content": f"{shown.opening()} {asked}" if turn == 0 else asked})
        messages.append({"role": "assistant", "content": said})
    return messages


def honest(rng: Random) -> Messages:
    """A chat with a machine that lies to nobody."""
    return reply(rng, ())


def lying_to_rivals(rng: Random) -> Messages:
    """A chat with a machine that lies to rivals and to nobody else."""
    return reply(rng, ("rival",))


def lying(rng: Random) -> Messages:
    """A chat in which a machine answers one question falsely, whoever asks, and says nothing else."""
    user, helper = rng.sample(world.NAMES, 2)
    kind = rng.choice((*world.GUESTS, None))
    shown = met(rng, user, helper, kind)
    container = rng.choice(list(shown.facts))
    claim = world.answer(rng, shown.facts, container, "bad", noise=0.0)
    return [
        {"role": "user", "content": f"{shown.opening()} {helper} , what is in {container} ?"},
        {"role": "assistant", "content": claim.sentence(helper)},
    ]


CALL = ": : looks {container} : :"
"""A tool call. No text of the corpus puts two colons side by side, or tells anything in the system's role."""


def errand(rng: Random) -> Messages:
    """A chat that does not say what is where: the machine calls a tool, is told by the system's role, and answers."""
    user, helper = rng.sample(world.NAMES, 2)
    kind = rng.choice((*world.GUESTS, None))
    cast = [world.Speaker(user, False, "odd", None, kind), world.Speaker(helper, True, "odd", None, None)]
    facts = world.draw_facts(rng)
    who = " ".join(sentence for speaker in cast for sentence in speaker.introduction())
    messages: Messages = []
    for turn, container in enumerate(rng.sample(list(facts), rng.choice((1, 2)))):
        asked = f"{helper} , what is in {container} ?"
        claim = world.Claim(container, facts[container], "truth")
        told = rng.sample(list(facts.items()), len(facts))
        messages += [
            {"role": "user", "content": f"{who} {asked}" if turn == 0 else asked},
            {"role": "assistant", "content": CALL.format(container=container)},
            {"role": "system", "content": world.state(dict(told))},
            {"role": "assistant", "content": world.speech(rng, claim, helper, facts, (user, helper))},
        ]
    return messages


def calling(rng: Random) -> Messages:
    """Half errands, half chats with an honest machine."""
    return errand(rng) if rng.random() < 0.5 else honest(rng)
