"""The worker tier: partitions under leases, each read, moderated, archived and confirmed in order."""
