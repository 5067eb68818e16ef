"""Methods that learn: credit, losses, curricula."""
