"""What two sides must agree on: keys, ids, entries, events, problems. No I/O."""
