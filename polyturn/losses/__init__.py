"""Loss terms over one flat axis of tokens, and the weights that average them."""
