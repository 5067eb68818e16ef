"""Many token paths in one forward: each token of a merged tree is computed once and attends to its own path only."""
