"""What our worker is compared with: the same job, done the usual ways."""
