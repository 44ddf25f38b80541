"""GraphQL: models, generation, vectors and administration in one schema; subscriptions stream tokens."""
