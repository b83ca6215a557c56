"""Builders of the data sets that ship with Limner: published packages in, webdataset shards out."""
