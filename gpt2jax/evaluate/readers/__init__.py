"""Readers: a file's bytes to typed items, each knowing the line it comes from.

Every reader takes the bytes and ``where`` they are from, which heads an error line, and raises GPT2JaxError naming the
line for what the form does not allow: nothing there, another encoding, something missing. Nothing is skipped silently.
"""
