"""`ticketwire admin`: the admin API from the command line."""
