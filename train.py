"""Train a tokenizer: python train.py [KEY=VALUE ...]; --help shows every key."""

from imtok.system import refuse_windows

if __name__ == "__main__":
    refuse_windows()  # before torch and the like are imported
    from imtok.cli import run_hydra

    run_hydra("train")
