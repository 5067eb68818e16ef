"""An agent with tools of its own: calls them until the reply is for the environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyturn.agents.chat import heard
from polyturn.desk import Desk
from polyturn.protocols import Ask, Context, Toolbox, View
from polyturn.types import Call, Message, Sampling, system


@dataclass
class ToolAgent:
    """Runs the calls that name its own tools and asks the policy again; a reply with any other call, or with none, is
    the act. Each own call costs a tool call of the budget, and must be answered within the seat's time and the deadline
    of a call. A toolbox that has ``open`` and ``close`` is opened before the first call and closed with the episode.
    """

    toolbox: Toolbox
    system: str = ""
    context: Context | None = None
    sampling: Sampling = Sampling()
    history: list[Message] = field(default_factory=list)

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The first reply that is not only for the own tools. Raises: BudgetSpent when calls or tools run out."""
        if not self.history and self.system:
            self.history = [system(self.system, origin="injected")]
        self.history = heard(self.history, ask)
        if (opened := getattr(self.toolbox, "open", None)) is not None:
            await desk.awaited(opened(), "its tools", "that they are opened")
        own = {tool.name for tool in self.toolbox.tools()}
        while True:
            view = View(tuple(self.history)) if self.context is None else await self.context.view(self.history, desk)
            self.history.extend(view.added)
            tools = (*self.toolbox.tools(), *ask.tools, *view.tools)
            turn = await desk.say(view.messages, tools=tools, sampling=self.sampling)
            reply = desk.message(turn)
            self.history.append(reply)
            if not reply.calls or any(call.name not in own for call in reply.calls):
                return reply
            for call in reply.calls:
                self.history.append(await self._answered(call, desk))

    async def close(self) -> None:
        """Closes the toolbox, where it can be closed."""
        if (close := getattr(self.toolbox, "close", None)) is not None:
            await close()

    async def _answered(self, call: Call, desk: Desk) -> Message:
        desk.budget.check("tool_calls")
        desk.budget.charge(tool_calls=1)
        return await desk.awaited(self.toolbox.call(call), f"its tool {call.name}", f"call {call.id}")
