"""The whole system on one machine, on loopback, under `.dev/`: private servers, supervisor, demo."""
