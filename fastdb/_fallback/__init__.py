"""Hold the plain-Python form of the compiled core; :mod:`fastdb._speedups` chooses between them."""
