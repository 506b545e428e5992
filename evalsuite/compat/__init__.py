"""Safe calls into third-party libraries: work-arounds for what is broken in their releases."""
