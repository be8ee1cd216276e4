"""Plans that several pages share, one module each; a page shows the module it uses by ``pages.show_source``."""

from nrae_lib.data import datasets


def image_source(name: str, preset: str) -> str:
    """Where a preset takes an image set from: full scale from its real files alone, others from a stand-in without them."""
    return "official" if preset == "paper" else datasets.resolve(name)
