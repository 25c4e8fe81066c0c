"""Data sets: files are found or downloaded, verified and read.

`load_characters` and `load_text8` load texts for character-level models, `load_words` for word-level models.
`load_own_characters` and `load_own_words` load the user's own text. `load_images` loads images to be read pixel by
pixel. `addition` generates its own data.
"""

from minizone.data.characters import load_characters
from minizone.data.download import KNOWN_FILES, KnownFile, MissingFile, data_folder, fetch, find, read_verified
from minizone.data.images import ImageDataset, Images, load_images, permutation
from minizone.data.own_text import load_own_characters, load_own_words
from minizone.data.text import TextDataset
from minizone.data.text8 import load_text8
from minizone.data.words import load_words

__all__ = [
    "KNOWN_FILES",
    "ImageDataset",
    "Images",
    "KnownFile",
    "MissingFile",
    "TextDataset",
    "data_folder",
    "fetch",
    "find",
    "load_characters",
    "load_images",
    "load_own_characters",
    "load_own_words",
    "load_text8",
    "load_words",
    "permutation",
    "read_verified",
]
