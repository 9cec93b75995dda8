"""The service: sign-ups, orders, events and mails over HTTP. It decides what is to be sent, and enqueues it."""
