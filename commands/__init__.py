"""Commands of ``ract`` that look at a cluster, one module per topic; `ract.commands.main` names
them."""
