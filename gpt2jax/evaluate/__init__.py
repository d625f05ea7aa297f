"""Zero-shot evaluation: the paper's table, and what is measured beside it."""
