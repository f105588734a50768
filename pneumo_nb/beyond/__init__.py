"""Beyond the paper: what notebooks 08 to 11 need."""
