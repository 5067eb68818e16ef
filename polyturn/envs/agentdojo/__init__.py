"""AgentDojo: tool use over an office, a journey, a bank and a chat, in peace or under attack."""
