from __future__ import annotations

from collections.abc import Iterator

import pytest

from polyturn.errors import PolicyFailed
from polyturn.policies.person import Person
from polyturn.protocols import Policy
from polyturn.types import Sampling, assistant, system, user


class Keyboard:
    """Lines that a person will type."""

    def __init__(self, *lines: str) -> None:
        self.lines: Iterator[str] = iter(lines)

    async def read(self) -> str:
        line = next(self.lines, None)
        if line is None:
            raise EOFError
        return line


async def test_a_person_sees_what_is_new_and_types_a_reply() -> None:
    shown: list[str] = []
    person = Person(Keyboard("8 ", "12").read, shown.append)
    assert isinstance(person, Policy)
    log = [system("rules"), user("guess")]
    first = await person.sample(log)
    assert (first.message.text, first.prompt, first.ids, first.sampled) == ("8", (), None, False)
    log += [assistant("8"), user("too low")]
    assert (await person.sample(log)).message.text == "12"
    assert shown == ["[system] rules", "[user] guess", "[user] too low"]
    assert (person.info().kind, person.count(log)) == ("human", 5)


async def test_a_shorter_view_is_shown_whole() -> None:
    shown: list[str] = []
    person = Person(Keyboard("a", "b").read, shown.append)
    await person.sample([user("1"), user("2"), user("3")])
    await person.sample([user("fresh")])
    assert shown[-1] == "[user] fresh"


async def test_a_reply_that_is_not_allowed_is_asked_for_again_and_no_input_is_an_error() -> None:
    shown: list[str] = []
    person = Person(Keyboard("9", "2").read, shown.append)
    assert (await person.sample([user("x")], sampling=Sampling(choices=("1", "2")))).message.text == "2"
    assert shown[-1] == "'9' is not allowed here; choose one of: 1, 2"
    with pytest.raises(PolicyFailed, match="there is no more input"):
        await person.sample([user("x")])
