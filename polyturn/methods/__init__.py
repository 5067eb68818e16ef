"""Published methods: one file per paper, named after it."""
