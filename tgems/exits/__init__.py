"""Exit modules: heads and gates, their training on cached features, and the policies that choose an exit."""
