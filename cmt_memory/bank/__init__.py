"""The bank keeps documents, their memories and their search vectors; it knows no language model."""
