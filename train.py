"""The command train: ``python train.py --help`` says how."""

from spinwarp.cli.train import main

if __name__ == "__main__":
    main()
