"""What leaves the house: mail, webhooks, receipts, statistics."""
