"""Data: found or downloaded, verified, read. `characters` has the texts that are modelled character by character."""

from minizone.data.characters import TextDataset, load_characters
from minizone.data.download import KNOWN_FILES, KnownFile, MissingFile, data_folder, fetch, find, read_verified

__all__ = [
    "KNOWN_FILES",
    "KnownFile",
    "MissingFile",
    "TextDataset",
    "data_folder",
    "fetch",
    "find",
    "load_characters",
    "read_verified",
]
