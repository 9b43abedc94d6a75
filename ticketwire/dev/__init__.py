"""`ticketwire dev`: the whole product on one machine, as the real processes it consists of."""
