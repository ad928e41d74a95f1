"""`python -m coordinator.cli` is `slicemq`."""

from coordinator.cli import main

if __name__ == "__main__":
    main()
