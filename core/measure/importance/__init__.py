"""One file per family of importance criteria; the registry feeds every menu."""
