"""The whole flow: stages that publish whole or not at all, and the round that runs them in order."""
