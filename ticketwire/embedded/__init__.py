"""Real Redis and PostgreSQL servers as child processes, for `ticketwire dev` and for the tests."""
