"""The ingest tier: takes messages by HTTP and puts them durably on their ingest streams."""
