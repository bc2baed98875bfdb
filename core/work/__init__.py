"""Long work in the background: the queue, the worker processes, and the verbs that they know."""
