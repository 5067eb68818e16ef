"""The plain agent: hears the environment, shows its context to the policy, says the reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from polyturn.calls import GRAMMARS
from polyturn.desk import Desk
from polyturn.protocols import Answer, Ask, Context, View
from polyturn.types import Message, Sampling, system


def heard(history: Sequence[Message], ask: Ask) -> list[Message]:
    """The log after an ask: new messages appended, hidden ones gone, all replaced (but for the system) if fresh."""
    kept = [message for message in history if message.id not in ask.hide or not message.id]
    if ask.fresh:
        kept = [message for message in kept if message.role == "system"]
    return [*kept, *ask.messages]


@dataclass
class ChatAgent:
    """One call of the policy for each ask.

    ``mask=True`` restricts replies to ``ask.legal`` where the environment lists it, with renormalised
    log-probabilities; the support is recorded, so that training uses the same distribution.
    """

    system: str = ""
    context: Context | None = None
    """None = full history."""
    sampling: Sampling = Sampling()
    mask: bool = False
    history: list[Message] = field(default_factory=list)

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The policy's reply. Raises what :meth:`polyturn.desk.Desk.say` raises."""
        if not self.history and self.system:
            self.history = [system(self.system, origin="injected")]
        self.history = heard(self.history, ask)
        view = View(tuple(self.history)) if self.context is None else await self.context.view(self.history, desk)
        self.history.extend(view.added)
        sampling = self.sampling
        if self.mask and ask.legal:
            sampling = replace(sampling, choices=ask.legal)
        turn = await desk.say(view.messages, tools=(*ask.tools, *view.tools), sampling=sampling)
        reply = desk.message(turn)
        self.history.append(reply)
        return reply


@dataclass
class AnswerAgent:
    """A scripted player in the clothes of :class:`ChatAgent`: same view, same record, the words from ``answer``.

    Its policy must be a :class:`polyturn.policies.dictated.Dictated`, which spells the one allowed choice; so its play
    is recorded turn by turn, as a demonstration where that policy has a chat. Calls are dictated in the form of Hermes.
    """

    answer: Answer
    system: str = ""
    history: list[Message] = field(default_factory=list)

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The answer's reply, said through the desk."""
        if not self.history and self.system:
            self.history = [system(self.system, origin="injected")]
        self.history = heard(self.history, ask)
        said = self.answer(ask)
        text = "\n".join(part for part in (said.text, GRAMMARS["hermes"].write(said.calls)) if part)
        turn = await desk.say(self.history, tools=ask.tools, sampling=Sampling(choices=(text or " ",)))
        reply = desk.message(turn)
        self.history.append(reply)
        return reply
