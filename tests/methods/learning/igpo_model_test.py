"""The embedded model's belief in the true answer rises when the passage that states it is put in its context."""

from __future__ import annotations

import numpy as np
import pytest

from polyturn.envs.search import RELATIONS, make_world
from polyturn.methods.learning.igpo import beliefs
from polyturn.policies.local import Local
from polyturn.seeds import generator
from polyturn.types import IntArray, user

ITEMS = 50


@pytest.mark.model
@pytest.mark.timeout(300)
async def test_the_gold_passage_raises_the_belief_against_a_random_one() -> None:
    model = Local.load()
    world = make_world(ITEMS, 0, "belief")
    people, draws = world.of_kind("person"), generator("belief passages")
    assert len(people) == ITEMS

    def prompt(person: str, passage: str, phrase: str) -> IntArray:
        asked = f"{passage}\nName {phrase}. Reply with 'answer: name'."
        return np.concatenate([piece.ids for piece in model.chat.encode([user(asked)])])

    prompts, truths = [], []
    for place, person in enumerate(people):
        relation = ("born", "works")[place % 2]
        phrase = RELATIONS[relation].phrase.format(x=person)
        other = [name for name in people if name != person][int(draws.integers(ITEMS - 1))]
        truths += [world.facts[person][relation]] * 2
        prompts += [prompt(person, " ".join(world.sentences(name)), phrase) for name in (person, other)]
    found = np.array(await beliefs(model, model.chat, prompts, truths)).reshape(ITEMS, 2)
    model.close()
    assert ((found > 0) & (found <= 1)).all()
    assert (found[:, 0] > found[:, 1]).mean() >= 0.9, found.round(3).tolist()
    assert found[:, 0].mean() > 2 * found[:, 1].mean()
