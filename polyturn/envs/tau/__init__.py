"""The airline and retail domains of tau2-bench: its data, our runtime."""
