"""The laboratory, which compares sharing strategies; nothing outside this folder imports it."""
