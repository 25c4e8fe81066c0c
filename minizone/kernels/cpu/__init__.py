"""The arithmetic around the matrix products, in place in NumPy."""
