"""How the coefficients of a scan are given."""

PLAIN = 0  # a itself
LOG = 1  # log a <= 0, real
NORMALIZED = 2  # log a, and the input enters as sqrt(1 - a²) x
