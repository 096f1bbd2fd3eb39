"""The published files, from a hub's repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A model's files in the repository FoundationVision/Infinity. size: pixels of the images it was trained for."""

    transformer: str
    tokenizer: str
    size: str


PUBLISHED = {
    "125M": Published("infinity_125M_256x256.pth", "infinity_vae_d16.pth", "0.06M"),
    "2B": Published("infinity_2b_reg.pth", "infinity_vae_d32reg.pth", "1M"),
    "8B": Published("infinity_8b_weights", "infinity_vae_d56_f8_14_patchify.pth", "1M"),
    "8B-512": Published("infinity_8b_512x512_weights", "infinity_vae_d56_f8_14_patchify.pth", "0.25M"),
}


def fetch(repository: str, model: Published) -> tuple[Path, Path]:
    """The transformer's and the tokenizer's files, downloaded into the hub client's own cache unless they are there.

    Raises:
        OSError: the client is not installed, or the hub does not give the files.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise OSError("a hub's files need: pip install 'varl[hub]' (there is no huggingface_hub here)") from error
    names = [model.transformer, f"{model.transformer}/*", model.tokenizer]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=names))
    except Exception as error:  # the hub's client raises its own, its HTTP library's and OSError
        raise OSError(f"the hub does not give {repository}: {type(error).__name__}: {error}") from error
    return folder / model.transformer, folder / model.tokenizer
