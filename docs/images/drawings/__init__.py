"""One function a picture, and all of them by the slugs of their systems."""

from drawings import attention, gated, linear, nonlinear, uses

PICTURES = {**linear.PICTURES, **gated.PICTURES, **attention.PICTURES, **nonlinear.PICTURES, **uses.PICTURES}
