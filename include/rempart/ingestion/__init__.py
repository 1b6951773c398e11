"""Ingestion: deliveries are landed as received and become snapshots; refused rows go to quarantine."""
