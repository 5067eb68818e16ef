"""A learner over several processes: one drives and plays, all compute, each keeps its shard of weights and moments."""
