"""Naive oracles: what the kernels and ops must compute, in plain loops, knowing nothing of the code under test."""


def pair(value):
    return value if isinstance(value, tuple) else (value, value)
