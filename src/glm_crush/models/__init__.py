"""Model families as descriptions over shared blocks, compiled once into a program."""
