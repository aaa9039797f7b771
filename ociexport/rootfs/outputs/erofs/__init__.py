"""The read-only file system EROFS, which Linux mounts directly."""
