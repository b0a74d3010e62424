"""Who may use the server over a network: access tokens, made on the command line, and what each allows."""
