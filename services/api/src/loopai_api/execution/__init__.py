"""Executions: parsing a request, gathering requests into frames, writing the answer. Shared by every lane."""
