"""The Model Context Protocol: generation, embeddings, ranking and models as tools and resources."""
