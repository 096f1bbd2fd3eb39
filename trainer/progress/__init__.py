"""What a run says while it trains: how far it is, how well, and how long it will still take."""
