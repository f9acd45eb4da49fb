"""What all scripts share: reading a text (data) and choosing a device (device)."""
