"""What a policy keeps of a long episode, and how it learns to."""
