"""Model families: descriptions over shared blocks, compiled once into a program (see `compiler`)."""
