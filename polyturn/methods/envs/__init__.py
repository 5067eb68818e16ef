"""Papers about environments: tasks, their scores, and recipes that go with them."""
