"""How many steps lie between the states that the forward pass keeps for the backward pass, by backend.

Triton's backward kernel has the states of a whole chunk in registers, and spills for longer ones; numba's has them in
the second-level cache, and is a tenth slower for shorter ones.
"""

EVERY = {"numba": 32, "triton": 16}
