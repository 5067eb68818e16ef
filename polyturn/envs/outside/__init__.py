"""Workers in environments of their own, for packages whose requirements clash with Polyturn's."""
