"""One call on its way: packed, sent, answered, waited for, made again."""
