"""Every kind of bad input at every way into the library: what each cell must do, and a walk over all of them."""
