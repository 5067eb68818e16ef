"""Our own engine: one batch of all waiting requests over caches that are continued, shared and forked."""
