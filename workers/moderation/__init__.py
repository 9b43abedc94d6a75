"""One verdict for each message: the policy file, its rules, and the external moderator."""
