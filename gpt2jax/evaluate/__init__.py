"""Zero-shot evaluation: the paper's table, and what people measure beside it."""
