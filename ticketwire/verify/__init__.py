"""`ticketwire verify`: prove on a running or stopped system what the product promises."""
