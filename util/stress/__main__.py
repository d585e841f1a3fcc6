"""``python -m ract.util.stress``: see `ract.util.stress.main`."""

from ract.util.stress.main import main

if __name__ == "__main__":
    main()
