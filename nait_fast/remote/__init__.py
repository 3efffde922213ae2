"""Files that lie elsewhere: in buckets, on the Hub, behind web servers; reached through fsspec."""
