"""Who reaches the service, and how: addresses, certificates, tokens and scopes."""
