"""The sources that ``imtok import`` knows, by name."""

from imtok.errors import InputError
from imtok.zoo.alit import ALIT, KARL
from imtok.zoo.alitok import AliTok
from imtok.zoo.bsq_vit import BSQViT
from imtok.zoo.cnn import IBQ, LDM, LlamaGen, Taming
from imtok.zoo.diffusers import DiffusersVQ
from imtok.zoo.elm import ELM
from imtok.zoo.flextok import FlexTok
from imtok.zoo.fqgan import FQGAN
from imtok.zoo.gigatok import GigaTok
from imtok.zoo.hita import Hita
from imtok.zoo.instella import Instella
from imtok.zoo.magvit2 import OpenMAGVIT2, SimVQ, WeTok
from imtok.zoo.maskgit import MaskBit, MaskGITVQGAN
from imtok.zoo.mgvq import MGVQ
from imtok.zoo.residual import RQVAE, VAR
from imtok.zoo.semanticist import Semanticist
from imtok.zoo.source import CheckpointSource
from imtok.zoo.titok import OneDPiece, TiTok
from imtok.zoo.tokenflow import TokenFlow
from imtok.zoo.tokenset import TokenSet
from imtok.zoo.unitok import UniTok
from imtok.zoo.uniwetok import UniWeTok
from imtok.zoo.vfmtok import VFMTok
from imtok.zoo.xqgan import XQGAN

_ALL = (
    LlamaGen(),
    Taming(),
    LDM(),
    DiffusersVQ(),
    IBQ(),
    OpenMAGVIT2(),
    WeTok(),
    SimVQ(),
    RQVAE(),
    VAR(),
    TiTok(),
    OneDPiece(),
    GigaTok(),
    FlexTok(),
    BSQViT(),
    VFMTok(),
    XQGAN(),
    FQGAN(),
    UniWeTok(),
    TokenSet(),
    Instella(),
    Hita(),
    ALIT(),
    KARL(),
    Semanticist(),
    MGVQ(),
    AliTok(),
    ELM(),
    MaskGITVQGAN(),
    MaskBit(),
    TokenFlow(),
    UniTok(),
)
SOURCES: dict[str, CheckpointSource] = {source.name: source for source in _ALL}


def find_source(name: str) -> CheckpointSource:
    """The source of a name.

    Raises:
        InputError: If there is none; lists all.
    """
    if name not in SOURCES:
        raise InputError(f"source={name} is not known; there are {', '.join(SOURCES)}")
    return SOURCES[name]
