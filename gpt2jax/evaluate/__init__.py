"""Zero-shot evaluation: the paper's table, and what people measure beside it.

From the bottom: ``catalog`` knows the files, ``find`` and ``download`` bring them, ``readers`` turn them into items and
``detokenize`` into natural text; ``rows`` says what is to be scored and ``likelihood`` scores it; ``tasks`` make rows
of items and figures of scores; ``run`` does what was asked for, ``table`` and ``picture`` show it.
"""
