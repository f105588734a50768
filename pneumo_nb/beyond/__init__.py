"""Beyond the paper: what it says of others, and what it leaves open, asked of its data and its runs."""
