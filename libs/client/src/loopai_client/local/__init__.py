"""The whole product on one machine: every server and service as a process of its own."""
