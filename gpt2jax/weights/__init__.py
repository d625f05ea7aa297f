"""GPT-2 weights: every form in, every form out.

:mod:`sources` finds out what a path or a name is and opens it; :mod:`convert` writes it in another form; a module for
each form reads and writes it, over :mod:`layout`, which turns the table of parameters into each form's names and
shapes, and :mod:`weights`, the one interface between them.
"""
