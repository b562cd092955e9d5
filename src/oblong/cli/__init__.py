"""The command line: one command per file; each parses, calls one stage and renders its record."""
