"""What the tiers share but do not send to each other, and the command line."""
