"""The commands, a module each or a few that belong together: they parse, call the library and print; no logic."""
