"""``python -m ract``: the command ``ract``, where its script is not on the path."""

from ract.commands.main import main

if __name__ == "__main__":
    main(prog_name="ract")
