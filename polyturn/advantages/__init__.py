"""Credit: from scores and rewards to advantages, in named stages."""
