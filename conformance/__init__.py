"""Real clients and public test suites against a real server."""
