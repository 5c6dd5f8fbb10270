"""Notebooks and their notes, over HTTP."""
