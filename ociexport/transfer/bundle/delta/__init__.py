"""Recipes: a layer made from the files of an older layer, and from the bytes that are new in it."""
