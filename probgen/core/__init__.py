"""Pure functions of arrays: importance-weighted bounds, and weights with their diagnostics.

Arrays of torch, JAX or NumPy go in, arrays of the same library come out, unreduced over the batch. Importing this
package imports neither torch nor JAX.
"""

from probgen.core import bounds, weights

__all__ = ["bounds", "weights"]
