"""One pass of a frozen backbone over a data set: summaries of every exit, embeddings and text banks, cached."""
