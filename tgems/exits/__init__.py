"""Exit modules: heads and gates, their training on cached features, and the folders that store them."""
