"""Evaluation: how much of what the text says a memory keeps."""
