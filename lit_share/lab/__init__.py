"""The laboratory: what compares sharing strategies. Nothing outside this folder imports it."""
