"""The executor: the child process that runs tasks one after another, or is one actor for life."""
