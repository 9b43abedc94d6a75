"""The delivery tier as a user runs it, beside what others do, in one run: `make bench-delivery`."""
