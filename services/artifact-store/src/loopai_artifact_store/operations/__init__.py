"""What an operator does to the data of a store: verify, export, import, rebuild."""
