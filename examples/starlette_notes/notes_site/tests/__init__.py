"""The tests: `FASTDB_TEST_URL=postgresql://localhost/notes pytest -n 4`."""
