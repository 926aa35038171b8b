"""The feature pass: encode a data set once with a frozen backbone, and cache what exit modules need."""
