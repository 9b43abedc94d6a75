"""The admin API on a port of its own: dead letters, partitions, traces, the record."""
