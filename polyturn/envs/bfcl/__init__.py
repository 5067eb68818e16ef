"""BFCL multi-turn: function calls over eight small worlds of the package bfcl-eval, judged by its checker."""
