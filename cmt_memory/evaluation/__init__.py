"""Measurements: what memories cost and what answers they keep."""
