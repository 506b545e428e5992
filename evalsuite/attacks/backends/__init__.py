"""Attack libraries behind one interface."""
