"""What is told outside: webhooks, and the audit trail."""
