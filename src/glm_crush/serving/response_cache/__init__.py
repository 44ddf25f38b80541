"""The response cache in front of the routes: which requests it may answer, and how."""
