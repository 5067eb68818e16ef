"""The state machine with scripted agent and user, and the two views of one conversation."""

from __future__ import annotations

from typing import Any

import pytest

from polyturn.envs.dialogue import GREETING, STOP_WORD, Dialogue, Refused, Rules, Script
from polyturn.envs.end_state import sha256_of
from polyturn.errors import BadInput
from polyturn.protocols import Step
from polyturn.types import Call, Message, Tool, assistant


class Lamp:
    """A database of one switch."""

    def __init__(self) -> None:
        self.on = False

    def state(self) -> dict[str, Any]:
        return {"on": self.on}

    def call(self, name: str, arguments: Any) -> str:
        if name == "switch":
            self.on = bool(arguments["on"])
            return "ok"
        if name == "leave":
            return "bye"
        raise Refused(f"there is no tool {name!r}")


SCRIPT = Script(
    "Be kind.", "You want light. The word is swordfish.", "Light, please.", (Tool("switch"), Tool("leave")),
    sha256_of({"on": True}), secrets={"word": "swordfish"}, terminal=frozenset({"leave"}),
)


def calling(*calls: tuple[str, dict[str, Any] | None], text: str = "") -> Message:
    return assistant(text, calls=tuple(
        Call(f"c{i}", name, arguments, "{", None if arguments is not None else "no JSON")
        for i, (name, arguments) in enumerate(calls)
    ))


async def play(
    *replies: str | Message, rules: Rules = Rules(), lamp: Lamp | None = None
) -> tuple[Dialogue, list[Step]]:
    """Gives the replies to whoever is asked, in turn."""
    env = Dialogue(SCRIPT, lamp or Lamp(), rules)
    steps = [await env.start()]
    for reply in replies:
        (ask,) = steps[-1].asks
        steps.append(await env.step({ask.seat: assistant(reply) if isinstance(reply, str) else reply}))
    return env, steps


def shown(step: Step) -> list[tuple[str, str]]:
    return [(message.role, message.text) for ask in step.asks for message in ask.messages]


def events(steps: list[Step]) -> list[tuple[str, Any]]:
    return [(event.kind, dict(event.content)) for step in steps for event in step.events]


SWITCH = calling(("switch", {"on": True}))


async def test_two_views_of_one_conversation() -> None:
    _, steps = await play("Light, please.", SWITCH, "It is on.", "Thanks. " + STOP_WORD)
    asked = [(step.asks[0].seat, shown(step)) for step in steps[:-1]]
    assert asked == [
        ("user", [("system", SCRIPT.part), ("user", GREETING)]),
        ("agent", [("system", "Be kind."), ("user", "Light, please.")]),
        ("agent", [("tool", "ok")]),
        ("user", [("user", "It is on.")]),  # the agent's text as the user's partner says it; no call, no result
    ]
    assert steps[1].asks[0].tools == SCRIPT.tools and steps[3].asks[0].tools == ()
    assert steps[2].asks[0].messages[0].call_id == "c0" and steps[1].asks[0].messages[1].origin == "user"


async def test_the_users_stop_word_ends_it_and_the_agents_does_not() -> None:
    env, steps = await play("Light.", f"I would say {STOP_WORD}", "No.", SWITCH, "On.", STOP_WORD)
    assert [bool(step.asks) for step in steps] == [True] * 6 + [False]
    final = await env.final()
    assert (final["ended"], final["stopped_by"]) == ("the user ended it", "user")
    assert events(steps)[-1] == ("user_stop", {"reached": True})


async def test_a_terminal_tool_ends_it_after_it_ran() -> None:
    env, steps = await play("Light.", SWITCH, calling(("leave", {})))
    assert steps[-1].stop is not None and steps[-1].stop.reason == "leave ended it"
    final = await env.final()
    assert final["tools"] == {"switch": 1, "leave": 1} and final["stopped_by"] == "agent"


async def test_only_the_first_call_runs_and_a_text_beside_it_reaches_nobody() -> None:
    lamp = Lamp()
    both = calling(("switch", {"on": True}), ("switch", {"on": False}), text="80")
    env, steps = await play("Light.", both, lamp=lamp)
    assert lamp.on and shown(steps[-1]) == [("tool", "ok")]
    assert ("ignored", {"names": ["switch"]}) in events(steps)
    assert (await env.final())["said"] == []  # so a required output beside a call does not count


async def test_every_call_runs_and_the_text_beside_them_counts_where_the_rules_say_so() -> None:
    lamp, rules = Lamp(), Rules(every_call=True, beside=True, cap=2)
    both = calling(("switch", {"on": True}), ("switch", {"on": False}), ("dance", {}), text="80")
    env, steps = await play("Light.", both, lamp=lamp, rules=rules)
    assert not lamp.on and shown(steps[-1])[:2] == [("tool", "ok")] * 2
    assert [message.call_id for message in steps[-1].asks[0].messages] == ["c0", "c1", "c2"]
    final = await env.final()
    assert (final["said"], final["tool_turns"]) == (["80"], 1)  # one execution against the cap


async def test_every_stop_word_ends_it() -> None:
    rules = Rules(stop_words=(STOP_WORD, "###AWAY###"))
    for words in ("Bye ###AWAY###", STOP_WORD):
        env, steps = await play("Light.", "On?", words, rules=rules)
        assert steps[-1].stop is not None and (await env.final())["stopped_by"] == "user"


async def test_an_empty_reply_and_too_many_errors_end_it_where_the_rules_say_so() -> None:
    env, steps = await play("Light.", " ", rules=Rules(empty="end"))
    assert steps[-1].stop is not None and steps[-1].stop.seat == "agent"
    final = await env.final()
    assert (final["ended"], final["stopped_by"], final["valid"]) == ("the agent said nothing", "", True)
    bad = [calling(("dance", {})), calling(("", None))]
    _, steps = await play("Light.", *bad, rules=Rules(errors=2))
    assert steps[-1].stop is not None and steps[-1].stop.reason == "2 calls failed"
    _, steps = await play("Light.", *bad, rules=Rules(errors=3))
    assert steps[-1].asks


async def test_a_call_that_cannot_be_read_is_told_or_ends_it() -> None:
    _, told = await play("Light.", calling(("", None)))
    assert shown(told[-1]) == [("tool", "Error: no JSON")] and told[-1].asks[0].messages[0].status == "error"
    _, ended = await play("Light.", calling(("", None)), rules=Rules(unparsable="end"))
    assert ended[-1].stop is not None and ended[-1].stop.reason == "a call could not be read"
    for steps in (told, ended):
        assert ("invalid", {"reason": "no JSON"}) in events(steps)


async def test_a_refused_call_is_the_tools_answer() -> None:
    env, steps = await play("Light.", calling(("dance", {})))
    assert shown(steps[-1]) == [("tool", "Error: there is no tool 'dance'")]
    assert (await env.final())["tools"] == {"unknown": 1}


async def test_a_terminal_tool_that_was_refused_does_not_end_it() -> None:
    script = Script("", "", "", (), "", terminal=frozenset({"dance"}))
    env = Dialogue(script, Lamp(), Rules(live=False))
    await env.start()
    assert (await env.step({"agent": calling(("dance", {}))})).asks


async def test_the_cap_counts_user_replies_and_tool_executions() -> None:
    env, steps = await play("Light.", SWITCH, "On?", "No.", SWITCH, rules=Rules(cap=3))  # tool 1, user 2, tool 3
    assert steps[-1].stop is not None and steps[-1].stop.kind == "truncated"
    final = await env.final()
    assert (final["user_turns"], final["tool_turns"], final["valid"]) == (1, 2, True)
    _, more = await play("Light.", SWITCH, "On?", "No.", SWITCH, rules=Rules(cap=4))
    assert more[-1].asks


async def test_a_silent_user_makes_the_play_invalid() -> None:
    env, steps = await play("Light.", "What for?", "  ")
    assert steps[-1].stop is not None and steps[-1].stop.seat == "user"
    final = await env.final()
    assert (final["valid"], final["fault"]) == (False, "the user said nothing")


async def test_a_cut_reply_ends_it() -> None:
    env, steps = await play("Light.", assistant("I wou", status="error"))
    assert steps[-1].stop is not None and (await env.final())["said"] == []


async def test_without_a_live_user_the_first_message_is_all_there_is() -> None:
    env, steps = await play(SWITCH, "On.", rules=Rules(live=False))
    assert steps[0].asks[0].seat == "agent" and shown(steps[0])[1] == ("user", "Light, please.")
    assert steps[-1].stop is not None and steps[-1].stop.reason == "there is no user to answer"
    assert (await env.final())["user_turns"] == 0


async def test_a_secret_is_logged_with_whether_it_was_asked_for() -> None:
    asked, steps = await play("Light.", "Which word?", "Swordfish, of course.", "Thanks.", "swordfish again")
    assert (await asked.final())["revealed"] == {"word": True}
    assert [content for kind, content in events(steps) if kind == "revealed"] == [{"secret": "word", "asked": True}]
    leaked, _ = await play("Light. The word is swordfish.")
    assert (await leaked.final())["revealed"] == {"word": False}


async def test_who_may_speak() -> None:
    env = Dialogue(SCRIPT, Lamp())
    with pytest.raises(BadInput, match="nobody was asked"):
        await env.step({"agent": assistant("x")})
    await env.start()
    with pytest.raises(BadInput, match="expected exactly one"):
        await env.step({"agent": assistant("x")})
    with pytest.raises(BadInput, match="no saved states"):
        await Dialogue(SCRIPT, Lamp()).start(b"")
