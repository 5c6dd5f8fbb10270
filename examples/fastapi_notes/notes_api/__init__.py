"""Notes with tags, over HTTP."""
