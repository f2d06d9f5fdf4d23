"""Train a tokenizer: python train.py [KEY=VALUE ...]; --help shows every key."""

from imtok.cli import run_hydra

if __name__ == "__main__":
    run_hydra("train")
