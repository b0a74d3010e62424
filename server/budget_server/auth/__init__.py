"""Access to the server over a network: access tokens, created on the command line, and the rights of each."""
