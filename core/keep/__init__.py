"""What outlives a click: the store, workspaces, results by key, uploads, networks that no repair makes again."""
