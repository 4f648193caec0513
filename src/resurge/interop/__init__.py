"""Other projects' weights, in and out: one module a format, each proven equal to its origin by a test."""
