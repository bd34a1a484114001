"""An app with orders, each of which gets a receipt by mail."""
