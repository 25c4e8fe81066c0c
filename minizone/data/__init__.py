"""Data: found or downloaded, verified, read.

`characters` and `text8` have the texts that are modelled character by character, `words` those that are modelled word
by word, `images` the pictures that are read pixel by pixel.
"""

from minizone.data.characters import TextDataset, load_characters
from minizone.data.download import KNOWN_FILES, KnownFile, MissingFile, data_folder, fetch, find, read_verified
from minizone.data.images import ImageDataset, Images, load_images, permutation
from minizone.data.text8 import load_text8
from minizone.data.words import WordDataset, load_words

__all__ = [
    "KNOWN_FILES",
    "ImageDataset",
    "Images",
    "KnownFile",
    "MissingFile",
    "TextDataset",
    "WordDataset",
    "data_folder",
    "fetch",
    "find",
    "load_characters",
    "load_images",
    "load_text8",
    "load_words",
    "permutation",
    "read_verified",
]
