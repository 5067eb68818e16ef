"""One batch of all waiting requests: over our slots, by continuous batching of transformers, or plainly."""
