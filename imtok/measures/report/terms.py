"""What numbers mean: a short name, a unit and a definition of each."""

from typing import NamedTuple


class Term(NamedTuple):
    """A number in words.

    Attributes:
        short: Its name in a table.
        unit: What it is counted in; empty = a number without a unit.
        meaning: A definition in a sentence or two.
    """

    short: str
    unit: str
    meaning: str


_TERMS = {
    "psnr": Term(
        "PSNR",
        "dB",
        "Peak signal-to-noise ratio, the mean over images. Six decibels more mean half the error of a pixel.",
    ),
    "ssim": Term(
        "SSIM",
        "",
        "Structural similarity of small windows, the mean over images. 1 means identical. It falls where edges and "
        "texture are lost.",
    ),
    "msssim": Term("MS-SSIM", "", "Structural similarity at five scales. 1 means identical."),
    "usage": Term("Usage", "share of codes", "How much of the codebook was seen at least once, as a share of 1."),
    "entropy_bits": Term(
        "Entropy", "bits per slot", "How many bits a token carries if each is coded by how often its code occurs."
    ),
    "entropy_bits_corrected": Term(
        "Entropy, corrected", "bits per slot", "The entropy with the correction of Miller and Madow for few tokens."
    ),
    "perplexity": Term("Perplexity", "codes", "So many codes, used evenly, would have the same entropy."),
    "relative_perplexity": Term("Perplexity / vocabulary", "share of codes", "The perplexity divided by all codes."),
    "frequent": Term(
        "Frequent codes", "share of codes", "Codes seen at least 0.08 times as often as if all were used evenly."
    ),
    "tokens_per_image": Term("Tokens", "per image", "How many tokens are sent for an image, the mean over images."),
    "bits_per_pixel": Term(
        "Rate", "bits per pixel", "Tokens times the bits that name a code, divided by the pixels of the image."
    ),
    "bits_per_pixel_entropy": Term(
        "Rate by entropy", "bits per pixel", "The same with the entropy of each slot in place of all its bits."
    ),
    "probe_codes": Term(
        "Probe of codes", "share of images", "How often a linear classifier on the mean of an image's codes is right."
    ),
    "probe_latents": Term(
        "Probe of latents", "share of images", "How often a linear classifier on the mean of its latents is right."
    ),
}

_DISTANCE = "how far the features of reconstructions are from those of originals, as a distance of two normal laws"
_FAMILIES = {
    "rfid_": f"Fréchet inception distance of reconstructions: {_DISTANCE}. 0 means none.",
    "fd_": f"A Fréchet distance in the features of another net: {_DISTANCE}. 0 means none.",
    "pfid_": "The Fréchet inception distance after some tokens were exchanged for neighbours, the mean over a grid.",
    "pfd_": "The Fréchet distance after some tokens were exchanged for neighbours, the mean over a grid.",
    "kid_std_": "The standard deviation of the kernel distance over its subsets.",
    "kid_": "A kernel distance between the features of reconstructions and of originals. 0 means none.",
    "inception_score_std_": "The standard deviation of the inception score over its parts.",
    "inception_score_": "How clear and how varied the classes are that a net sees in the reconstructions.",
    "lpips": "Perceptual distance of each pair in the features of a net, the mean over images. 0 means none.",
}


def term(name: str) -> Term:
    """What a number means; names of nets and resizers stay in the names of distances, which depend on them.

    Example:
        >>> term("psnr").unit, term("fd_efflite0_224").short
        ('dB', 'fd_efflite0_224')
    """
    if name in _TERMS:
        return _TERMS[name]
    meaning = next((words for start, words in _FAMILIES.items() if name.startswith(start)), "")
    return Term(name, "", meaning)
